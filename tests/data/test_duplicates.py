"""Near duplicates: what MinHash proposes and shingles decide is what comparing every pair would say."""

import random

import numpy as np
import pytest

from posttrain.data import duplicates
from posttrain.data.duplicates import ALIKE, SHINGLE, check_duplicates, near_matches, repeats, signatures
from posttrain.types import Conversation, Document, Message

WORDS = [
    "river",
    "stone",
    "copper",
    "window",
    "garden",
    "seven",
    "winter",
    "bridge",
    "letter",
    "cloud",
    "engine",
    "music",
]


def shingles(text: str) -> set[str]:
    """The oracle: the set of substrings, no hash."""
    plain = " ".join(text.casefold().split()).ljust(SHINGLE)
    return {plain[i : i + SHINGLE] for i in range(len(plain) - SHINGLE + 1)}


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def variants(seed: int, count: int = 120) -> list[str]:
    """Texts of which many are edits of an earlier one, from barely to almost wholly alike."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(count // 3)]
    while len(texts) < count:
        words = rng.choice(texts).split()
        for _ in range(rng.randint(0, 6)):
            words[rng.randrange(len(words))] = rng.choice([*WORDS, "Ünïcode", "漢字"])
        texts.append(" ".join(words) + rng.choice(["", ".", "  ", "\n"]))
    return texts


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_brute_force(seed: int) -> None:
    texts = variants(seed)
    expected = {}
    for j in range(len(texts)):
        i = next((i for i in range(j) if jaccard(texts[i], texts[j]) >= ALIKE), None)
        if i is not None:
            expected[j] = i
    assert near_matches(texts) == expected
    assert 10 < len(expected) < len(texts) - 10


def test_held_out_texts_are_compared_with_known_ones_alone() -> None:
    texts = variants(7)
    expected = {}
    for j in range(60, len(texts)):
        i = next((i for i in range(60) if jaccard(texts[i], texts[j]) >= ALIKE), None)
        if i is not None:
            expected[j] = i
    assert near_matches(texts, 60) == expected
    assert expected


def test_signatures_estimate_the_index() -> None:
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(400):
        count = int(rng.integers(20, 400))
        pool = rng.integers(0, 1 << 32, 2 * count, dtype=np.uint32)
        start = int(rng.integers(1, count))
        a, b = np.unique(pool[:count]), np.unique(pool[start : start + count])
        signature = signatures([a, b])
        errors.append(np.mean(signature[0] == signature[1]) - duplicates.jaccard(a, b))
    # 128 permutations: a standard deviation of at most 0.044, and no bias.
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.044


def test_the_blocks_of_hashing_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = [duplicates.shingle_hashes(text) for text in variants(1)]
    whole = signatures(hashed)
    monkeypatch.setattr(duplicates, "BLOCK", 50)
    assert (signatures(hashed) == whole).all()


def test_a_crowd_in_one_bucket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BUCKET", 8)
    text = " ".join(WORDS * 6)
    crowd = [f"{text} {number}" for number in range(300)]
    assert len(near_matches(crowd)) == 299


@pytest.mark.parametrize("texts", [[], ["one"], ["", "a"], ["", ""]])
def test_few_and_empty_texts(texts: list[str]) -> None:
    assert near_matches(texts) == ({1: 0} if texts == ["", ""] else {})


def test_repeats_name_the_first() -> None:
    assert repeats("abcab") == [(3, 0), (4, 1)]


def chat(question: str, answer: str, line: int, system: str = "") -> Conversation:
    turns = (Message("user", question), Message("assistant", answer))
    return Conversation((Message("system", system), *turns) if system else turns, f"x.jsonl:{line}")


def level(findings: list, code: str) -> str:
    return next(finding.level for finding in findings if finding.code == code)


def test_a_shared_system_message_makes_no_duplicates() -> None:
    long = " ".join(WORDS * 20)
    rows = [chat(f"What is {w} made of?", f"I know little of {w[::-1]}.", i, long) for i, w in enumerate(WORDS)]
    findings = check_duplicates(rows)
    assert level(findings, "near_duplicates") == level(findings, "exact_duplicates") == "pass"


def test_a_part_of_many_rows_is_compared_and_that_is_said() -> None:
    rows = [Document(" ".join(random.Random(i).choices(WORDS, k=40)), f"x.txt:{i}") for i in range(50)]
    (near,) = [f for f in check_duplicates(rows, max_near=10) if f.code == "near_duplicates"]
    assert "in 10 rows" in near.message


def test_unlike_texts_of_the_same_words_are_seldom_compared() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=12)) + str(rng.random()) for _ in range(4_000)]
    signature = signatures([duplicates.shingle_hashes(text) for text in texts])
    assert len(duplicates._candidates(signature)) < 10 * len(texts)
