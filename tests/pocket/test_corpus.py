import re
from collections import Counter
from itertools import islice

from posttrain.pocket.corpus import MIXTURE, documents, is_heldout_sum
from posttrain.pocket.world import World

Corpus = list[tuple[str, str]]
EVALUATED = re.compile(r"(\d+) ([+x-]) (\d+) = (\d+)")
ADDED = (
    re.compile(r"(\d+) (?:\+|plus) (\d+)"),
    re.compile(r"(?:sum of|adds) (\d+) and (\d+)"),
    re.compile(r"(\d+) \w+ (?:and found|in one box and) (\d+)"),
)


def test_the_mixture_holds(corpus: Corpus) -> None:
    assert abs(sum(MIXTURE.values()) - 1) < 1e-9
    sizes: Counter[str] = Counter()
    for kind, text in corpus:
        sizes[kind] += len(text)
    for kind, share in MIXTURE.items():
        assert abs(sizes[kind] / sizes.total() - share) < 0.005, kind


def test_a_seed_gives_the_same_documents(world: World) -> None:
    first = list(islice(documents(world, seed=5), 300))
    assert list(islice(documents(world, seed=5), 300)) == first
    assert list(islice(documents(world, seed=6), 300)) != first


def test_no_question_on_the_heldout_half_is_answered(world: World, corpus: Corpus) -> None:
    heldout = {question for fact in world.facts if not fact.asked for question in fact.questions}
    seen = set()
    for _, text in corpus:
        lines = text.split("\n")
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            question = re.sub(r"^(Q: |\d+\. |- )", "", line)
            if question in heldout:
                seen.add(question)
                assert not line.startswith("Q:")
                assert not following or following.endswith("?"), (line, following)
    assert len(seen) > len(heldout) / 2


def test_questions_stand_alone_on_their_lines(corpus: Corpus) -> None:
    for kind, text in corpus:
        if kind == "quiz":
            assert all(line.endswith("?") for line in text.rstrip("\n").split("\n")[1:])


def test_every_question_of_the_heldout_half_is_asked_somewhere(world: World) -> None:
    subjects = {fact.subject for fact in world.facts if not fact.asked}
    quizzes = "\n".join(text for kind, text in islice(documents(world, seed=1), 20_000) if kind == "quiz")
    missing = [subject for subject in subjects if subject not in quizzes]
    assert not missing


def test_many_quiz_sheets_begin_with_a_question(corpus: Corpus) -> None:
    sheets = [text for kind, text in corpus if kind == "quiz"]
    bare = [text for text in sheets if re.match(r"[A-Z][^\n]*\?\n", text)]
    assert len(bare) > 0.4 * len(sheets)


def test_no_heldout_sum_appears(corpus: Corpus) -> None:
    num_sums = 0
    for _, text in corpus:
        for pattern in ADDED:
            for a, b in pattern.findall(text):
                num_sums += 1
                assert not is_heldout_sum(int(a), int(b)), (a, b)
        for a, b, c in re.findall(r"(\d+) - (\d+) = (\d+)", text):
            assert not is_heldout_sum(int(b), int(c)), (a, b, c)
    assert num_sums > 10_000


def test_all_sums_are_right(corpus: Corpus) -> None:
    for _, text in corpus:
        for a, sign, b, result in EVALUATED.findall(text):
            x, y = int(a), int(b)
            assert {"+": x + y, "-": x - y, "x": x * y}[sign] == int(result)


def test_documents_are_plain_text_of_moderate_size(corpus: Corpus) -> None:
    for _, text in corpus:
        assert text.isascii()
        assert text.endswith("\n")
        assert 60 < len(text) < 2500
        assert not re.search(r"\b(User|Assistant|Human):", text)
        assert "{" not in text


def test_plain_sums_dominate(corpus: Corpus) -> None:
    text = "".join(text for kind, text in corpus if kind == "arithmetic")
    worked = len(re.findall(r"so \d+ \+ \d+ = \d+\.", text))
    assert worked * 4 < len(re.findall(r"\d+ \+ \d+ = \d+", text)) - 3 * worked
