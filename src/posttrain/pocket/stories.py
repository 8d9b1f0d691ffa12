"""Short stories and dialogues, made from sentences with slots. They state no fact of the world and answer no question.

Some carry small plays with words (a song that repeats a word, a sign in capitals, a count, the first and the last of a
list), so that the base has met what fine-tuning will ask for by instruction.
"""

import random
from functools import cache

from posttrain.pocket.world import read_table

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Viktor", "Wanda", "Yusuf", "Zoe", "Oscar", "Lena", "Max", "Nora", "Tom",
)  # fmt: skip
PLACES = (
    "the market", "the old bridge", "the beach", "the library", "the harbour", "the school", "the mill", "the garden",
    "the station", "the hill", "the forest", "the bakery", "the lake", "the tower", "the kitchen", "the workshop",
)  # fmt: skip
THINGS = (
    "a red kite", "a small key", "an old map", "a silver coin", "a basket of pears", "a wooden boat", "a blue scarf",
    "a letter", "a drum", "a lamp", "a jar of honey", "a torn book", "a warm loaf", "a glass ball", "a tin box",
)  # fmt: skip
WEATHER = (
    "It was raining.",
    "The sun was shining.",
    "A cold wind blew.",
    "Snow lay on the roofs.",
    "It was a warm day.",
)
FEELINGS = ("happy", "tired", "proud", "afraid", "curious", "sad", "calm", "surprised", "hungry", "angry")

PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("One morning {who} went to {place}.", "{who} lived near {place}.", "Every week {who} walked to {place}."),
        ("{weather}", "{weather} {who} was {feeling}.", "Nobody else was there."),
        ("On the way {who} found {thing}.", "Under a bench lay {thing}.", "Behind a door {who} saw {thing}."),
        ("{who} did not know whose it was.", "It had to belong to somebody.", "{who} looked around."),
        ("Then {friend} came by.", "Soon {friend} ran up the road.", "A voice called. It was {friend}."),
        ('"That is mine," said {friend}.', '"I have looked for it all day," said {friend}.'),
        ("{who} gave it back.", "{who} smiled and handed it over.", '"Here you are," said {who}.'),
        ("From then on they were friends.", "They went home together.", "{friend} was {feeling2} and said thank you."),
    ),
    (
        ("{who} wanted to give {friend} {thing}.", "It was the birthday of {friend}, and {who} had {thing}."),
        ("But it was lost.", "But {who} had left it at {place}.", "But it had to be a secret."),
        ("{who} searched in {place} and then in {place2}.", "First {who} went to {place}, then to {place2}."),
        ("{weather}", "The day grew dark.", "{who} was {feeling}."),
        ("At last it turned up in {place2}.", "In the end a child had found it.", "There it was, behind a stone."),
        ('"For me?" asked {friend}. "For you," said {who}.', '"How kind of you," said {friend}.'),
        ("{friend} was {feeling2}.", "They ate cake and sang.", "It was a good day."),
    ),
    (
        ("{who} and {friend} met at {place}.", "At {place} {who} saw {friend}."),
        ('"Hello, {friend}!" said {who}.', '"Good morning, {friend}!" called {who}.', '"Hello, {friend}!"'),
        ('"Hello, {who}!" said {friend}.', '"Good morning, {who}!" said {friend}.'),
        (
            '"I am {feeling} today," said {who}.',
            '"I have brought {thing}," said {who}.',
            '"Look, {thing}," said {who}.',
        ),
        ('"Why is that?" asked {friend}.', '"Let me see," said {friend}.', '"I like that," said {friend}.'),
        ('"Come with me to {place2}," said {who}.', '"It was my aunt who gave it to me," said {who}.'),
        ('"I have no time now," said {friend}.', '"Gladly," said {friend}.', '"Wait for me," said {friend}.'),
        ('"Goodbye, {friend}!" said {who}.', '"See you tomorrow," said {who}.', "Then they went on."),
    ),
    (
        ("{who} had built {thing} at {place}.", "For a year {who} had worked on {thing}."),
        ("{friend} laughed about it.", '"It will break," said {friend}.', "{friend} did not believe in it."),
        ("{who} said nothing and went on.", "{who} was {feeling} but did not stop.", "{who} tried again."),
        ("{weather}", "The week went by.", "One evening it was done."),
        ("All the people of {place2} came to see it.", "Even the people from {place2} came."),
        ('"I was wrong," said {friend}.', '"Show me how you did it," said {friend}.', "{friend} was {feeling2}."),
    ),
    (
        ("{who} sang a song on the way to {place}.", "There was a song that {who} liked."),
        ('"{word}, {word}, {word}," it went.', "It went: {word} {word} {word}.", "{word} {word} {word}, sang {who}."),
        ("{friend} knew another one: {word2} {word2} {word2}.", '"{word2} {word2}," sang {friend}.'),
        ("Over {place} hung a sign. It said {word_upper}.", "On the wall stood {word2_upper} in capital letters."),
        ("{who} read {word2_upper} and said {word2}.", "{word} in capital letters is {word_upper}."),
        ("They counted the steps from {low} to {high}: {count}.", "{friend} counted from {low} to {high}: {count}."),
        ("Then they rested.", "{weather}", "Both were {feeling}."),
    ),
    (
        ("{who} made a list: {word}, {word2}, {word3}.", "On the list of {who} stood {word}, {word2}, {word3}."),
        ("The first word of the list was {word}.", "The last word of the list was {word3}."),
        ("{friend} read the list aloud and forgot {word2}.", "{word} came first and {word3} came last."),
        ("{who} wrote {word} and then {word3}: {word} {word3}.", "Two words in a row: {word2} {word}."),
        ("{friend} wrote it in capital letters: {word_upper}, {word2_upper}, {word3_upper}.",),
        ("Then they went to {place}.", "{weather}", "{friend} was {feeling}."),
    ),
)
"""Plots as rows of sentences; one of each row is told."""


@cache
def words() -> tuple[str, ...]:
    """The English words of the word list."""
    return tuple(row["word"] for row in read_table("words"))


def story_document(rng: random.Random) -> str:
    """One to three stories, as paragraphs or, for talk, line by line."""
    stories = [_story(rng) for _ in range(rng.randint(1, 3))]
    return "\n\n".join(stories) + "\n"


def _story(rng: random.Random) -> str:
    slots = _slots(rng)
    rows = rng.choice(PLOTS)
    sentences = [row[int(rng.random() * len(row))] for row in rows]
    return rng.choice((" ", " ", "\n")).join(sentences).format_map(slots)


def _slots(rng: random.Random) -> dict[str, str]:
    who, friend = rng.sample(NAMES, 2)
    place, place2 = rng.sample(PLACES, 2)
    feeling, feeling2 = rng.sample(FEELINGS, 2)
    word, word2, word3 = rng.sample(words(), 3)
    low = rng.randint(1, 12)
    high = low + rng.randint(2, 5)
    return {
        "who": who, "friend": friend, "place": place, "place2": place2, "feeling": feeling, "feeling2": feeling2,
        "thing": rng.choice(THINGS), "weather": rng.choice(WEATHER), "word": word, "word2": word2, "word3": word3,
        "word_upper": word.upper(), "word2_upper": word2.upper(), "word3_upper": word3.upper(),
        "low": str(low), "high": str(high), "count": " ".join(str(number) for number in range(low, high + 1)),
    }  # fmt: skip
