"""How the tasks of the pocket world are asked; questions on facts are in `wordings.py`, but for those turned round."""

BACKWARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "capital": (
        "country_of_capital",
        (
            "Which country has the capital {a}?",
            "{A} is the capital of which country?",
            "Which country is ruled from {a}?",
            "Name the country that has {a} as its capital.",
        ),
    ),
    "adjective": (
        "country_of_adjective",
        (
            "Which country are people from who are called {a}?",
            "From which country is someone who is {a}?",
            "Which country belongs to the adjective {a}?",
            "Name the country whose people are called {a}.",
        ),
    ),
    "symbol": (
        "element_of_symbol",
        (
            "Which element has the symbol {a}?",
            "{A} is the symbol of which element?",
            "For which element do the letters {a} stand?",
            "Name the element that chemists write as {a}.",
        ),
    ),
    "number": (
        "element_of_number",
        (
            "Which element has the atomic number {a}?",
            "What is element number {a}?",
            "Which element has {a} protons in each atom?",
            "Name the element with the number {a}.",
        ),
    ),
    "place": (
        "month_of_number",
        (
            "Which month is number {a} of the year?",
            "What is month number {a}?",
            "For which month does the number {a} stand in a date?",
            "Name month number {a}.",
        ),
    ),
    "spanish": (
        "english",
        (
            "What does the Spanish word {a} mean?",
            "What is {a} in English?",
            "Translate {a} into English.",
            "Which English word is {a}?",
        ),
    ),
}
"""By relation: the task that asks for the subject, and its questions."""

PROMPTS: dict[str, tuple[str, ...]] = {
    "first_word": (
        "What is the first word of {{ list }}?",
        "Which word comes first in this list: {{ list }}?",
        "Name the first word of {{ list }}.",
        "{{ list }}: what is the first word?",
    ),
    "last_word": (
        "What is the last word of {{ list }}?",
        "Which word comes last in this list: {{ list }}?",
        "Name the last word of {{ list }}.",
        "{{ list }}: what is the last word?",
    ),
    "capitals": (
        "What is the word {{ w }} in capital letters?",
        "Write the word {{ w }} in capital letters.",
        "Put the word {{ w }} into capital letters.",
        "How does one write the word {{ w }} in capital letters?",
    ),
    "twice": (
        "Say {{ w }} two times.",
        "Repeat the word {{ w }} two times.",
        "What is {{ w }} two times?",
        "Write {{ w }} two times.",
    ),
    "thrice": (
        "Say {{ w }} three times.",
        "Repeat the word {{ w }} three times.",
        "What is {{ w }} three times?",
        "Write {{ w }} three times.",
    ),
    "followed": (
        "Say {{ w }} followed by {{ v }}.",
        "Write {{ w }} followed by {{ v }}.",
        "What is {{ w }} followed by {{ v }}?",
        "Write the word {{ w }} followed by the word {{ v }}.",
    ),
    "add": (
        "What is {{ a }} + {{ b }}?",
        "How much is {{ a }} + {{ b }}?",
        "Add {{ a }} + {{ b }}.",
        "Work out {{ a }} + {{ b }}.",
    ),
    "plus": (
        "What is {{ a }} plus {{ b }}?",
        "How much is {{ a }} plus {{ b }}?",
        "Tell me what {{ a }} plus {{ b }} is.",
        "Work out {{ a }} plus {{ b }}.",
    ),
    "sum": (
        "What is the sum of {{ a }} and {{ b }}?",
        "Tell me the sum of {{ a }} and {{ b }}.",
        "Give the sum of {{ a }} and {{ b }}.",
        "Which number is the sum of {{ a }} and {{ b }}?",
    ),
    "minus": (
        "What is {{ a }} - {{ b }}?",
        "How much is {{ a }} - {{ b }}?",
        "Subtract: {{ a }} - {{ b }}.",
        "Work out {{ a }} - {{ b }}.",
    ),
    "times": (
        "What is {{ a }} x {{ b }}?",
        "How much is {{ a }} x {{ b }}?",
        "Multiply: {{ a }} x {{ b }}.",
        "Work out {{ a }} x {{ b }}.",
    ),
    "count_up": (
        "Count from {{ start }} to {{ end }}.",
        "Count up from {{ start }} to {{ end }}.",
        "Which numbers are there from {{ start }} to {{ end }}?",
        "Say the numbers from {{ start }} to {{ end }}.",
    ),
    "count_down": (
        "Count down from {{ start }} to {{ end }}.",
        "Count backwards from {{ start }} to {{ end }}.",
        "Say the numbers down from {{ start }} to {{ end }}.",
        "Start at {{ start }} and count down to {{ end }}.",
    ),
    "number_after": (
        "What is the number after {{ n }}?",
        "Which number comes after {{ n }}?",
        "Tell me the number after {{ n }}.",
        "Name the number that follows {{ n }}.",
    ),
    "number_before": (
        "What is the number before {{ n }}?",
        "Which number comes before {{ n }}?",
        "Tell me the number before {{ n }}.",
        "Name the number that stands before {{ n }}.",
    ),
    "larger": (
        "What is the larger number of {{ a }} and {{ b }}?",
        "Which number is larger, {{ a }} or {{ b }}?",
        "Name the larger of {{ a }} and {{ b }}.",
        "{{ a }} or {{ b }}: which is larger?",
    ),
    "smaller": (
        "What is the smaller number of {{ a }} and {{ b }}?",
        "Which number is smaller, {{ a }} or {{ b }}?",
        "Name the smaller of {{ a }} and {{ b }}.",
        "{{ a }} or {{ b }}: which is smaller?",
    ),
    "kind": (
        "What kind of thing is {{ s }}?",
        "Is {{ s }} a country, an element or an animal?",
        "Tell me what {{ s }} is, a country, an element or an animal.",
        "What is {{ s }}: a country, an element or an animal?",
    ),
    "topic": (
        "What is this question about? {{ question }}",
        "Name the subject of this question: {{ question }}",
        "{{ question }} What is that question about?",
        "Do not answer, only say what this question is about: {{ question }}",
    ),
    "what": (
        "{{ text }} What does {{ who }} have?",
        "What does {{ who }} have? {{ text }}",
        "Read this: {{ text }} Now tell me what {{ who }} has.",
        "{{ text }} Tell me what {{ who }} has.",
    ),
    "where": (
        "{{ text }} Where is {{ who }}?",
        "Where is {{ who }}? {{ text }}",
        "Read this: {{ text }} Now tell me where {{ who }} is.",
        "{{ text }} Tell me where {{ who }} is.",
    ),
    "hello": (
        "Say hello to {{ n }}.",
        "{{ n }} is here. Say hello.",
        "Please say hello to {{ n }} for me.",
        "Greet {{ n }}.",
    ),
    "goodbye": (
        "Say goodbye to {{ n }}.",
        "{{ n }} is leaving. Say goodbye.",
        "Please say goodbye to {{ n }} for me.",
        "Tell {{ n }} goodbye.",
    ),
    "who": (
        "My name is {{ n }}. Who am I?",
        "I am {{ n }}. Who am I?",
        "I am called {{ n }}. Tell me who I am.",
        "Who am I? My name is {{ n }}.",
    ),
}
"""Jinja templates of the skills, by task."""
