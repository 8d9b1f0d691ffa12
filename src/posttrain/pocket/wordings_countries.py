"""How the relations of countries are said and asked; see `wordings.py` for the placeholders."""

from posttrain.pocket.wording import Wording

COUNTRY_WORDINGS: dict[str, Wording] = {
    "capital": Wording(
        "countries",
        "capital",
        "The capital of {s} is",
        (
            "{A} is the capital of {s}.",
            "{S} has {a} as its capital.",
            "The capital city of {s} is called {a}.",
            "The government of {s} sits in {a}, its capital.",
            "{A}, the capital of {s}, is known to every pupil there.",
            "Travellers who visit {s} often begin in {a}, the capital.",
            "{A} is the city from which {s} is ruled.",
        ),
        ("What is the capital of {s}?", "Which city is the capital of {s}?", "What is the capital city of {s} called?"),
        ("Tell me the capital of {s}.", "Can you name the capital of {s}?", "{S}: what is its capital?"),
        ("Do you know the capital of {s}?", "Please name the capital city of {s}."),
    ),
    "continent": Wording(
        "countries",
        "continent",
        "The continent of {s} is",
        (
            "{S} is a country in {a}.",
            "{S} lies in {a}.",
            "In {a} one finds the country of {s}.",
            "{A} is the continent where {s} lies.",
            "On a map of {a} you will find {s}.",
            "Among the countries of {a} is {s}.",
            "{S} belongs to the continent of {a}.",
        ),
        ("What is the continent of {s}?", "On which continent is {s}?", "Which continent does {s} belong to?"),
        ("Tell me the continent of {s}.", "Where in the world is {s}?", "Can you name the continent of {s}?"),
        ("In what part of the world does {s} lie?", "Please name the continent of {s}."),
    ),
    "currency": Wording(
        "countries",
        "currency",
        "The currency of {s} is the",
        (
            "The {a} is the currency of {s}.",
            "{S} uses the {a} as its currency.",
            "In the shops of {s} people pay with the {a}.",
            "People pay with the {a} when they buy bread in {s}.",
            "The money of {s} is the {a}.",
            "With the {a}, the currency of {s}, one can pay anywhere in the country.",
            "Whoever travels to {s} needs the {a}.",
        ),
        ("What is the currency of {s}?", "Which currency does {s} use?", "What money do people use in {s}?"),
        ("Tell me the currency of {s}.", "What do people pay with in {s}?", "Can you name the currency of {s}?"),
        ("How does one pay in {s}?", "Please name the currency of {s}."),
    ),
    "language": Wording(
        "countries",
        "language",
        "The official language of {s} is",
        (
            "{A} is the official language of {s}.",
            "In {s} the official language is {a}.",
            "{S} has {a} as its official language.",
            "The laws of {s} are written in {a}.",
            "{A} is spoken in {s}, where it is the official language.",
            "Children in {s} learn {a} at school, the official language.",
            "For a journey to {s} it helps to speak {a}.",
        ),
        (
            "What is the official language of {s}?",
            "Which language is official in {s}?",
            "What language do people speak in {s}?",
        ),
        (
            "Tell me the official language of {s}.",
            "Can you name the language of {s}?",
            "Which language should I learn for {s}?",
        ),
        ("In which language are the laws of {s} written?", "Please name the language of {s}."),
    ),
    "adjective": Wording(
        "countries",
        "adjective",
        "The adjective for {s} is",
        (
            "{A} is the adjective for {s}.",
            "A person from {s} is {a}.",
            "People from {s} are called {a}.",
            "{A} is the word for someone who comes from {s}.",
            "Something that was made in {s} is {a}.",
            "A ship from {s} is a ship that is {a}.",
            "Who was born in {s} is {a}.",
        ),
        (
            "What is the adjective for {s}?",
            "What do we call people from {s}?",
            "What is the word for a person from {s}?",
        ),
        ("Tell me the adjective for {s}.", "What is someone from {s} called?", "Which adjective belongs to {s}?"),
        ("How do we call something from {s}?", "Please give the adjective for {s}."),
    ),
}
"""The relations of countries, by name."""
