"""No prompt on both sides, the share that was asked for, and a split that stays when rows join."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.split import group_key, scramble, seed_key, split_groups
from posttrain.errors import DataError
from posttrain.types import Conversation, Document, Message, Preference, Prompt, Ranking, Rating

RECORDED_CHAT, RECORDED_DOCUMENT = 13034229660058784211, 13602332459348018141
HELLO = Message("user", "Say hello.")


def chat(*turns: str) -> Conversation:
    """'user: text' and so on."""
    return Conversation(tuple(Message(*turn.split(": ", 1)) for turn in turns))


class TestGroupKey:
    def test_the_numbers_stay_what_they_were(self) -> None:
        """Written down, so that a cached split of yesterday holds today and under any interpreter."""
        assert group_key(chat("user: Say hello.", "assistant: Hello.")) == RECORDED_CHAT
        assert group_key(Document("Once upon a time")) == RECORDED_DOCUMENT

    def test_another_process_finds_the_same_number(self) -> None:
        program = (
            "from posttrain.data.split import group_key; from posttrain.types import *;"
            "print(group_key(Conversation((Message('user', 'Say hello.'),))))"
        )
        for hash_seed in ("1", "2"):
            environment = os.environ | {"PYTHONHASHSEED": hash_seed}
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
            )
            assert int(done.stdout) == RECORDED_CHAT

    @pytest.mark.parametrize(
        "same",
        [
            chat("user: Say hello.", "assistant: Another answer."),
            chat("user: Say hello.", "assistant: Hello.", "user: And now goodbye.", "assistant: Bye."),
            chat("user:   say\n\tHELLO. ", "assistant: Hello."),
            Prompt((HELLO,)),
            Preference((HELLO,), (Message("assistant", "a"),), (Message("assistant", "b"),)),
            Rating((HELLO,), (Message("assistant", "a"),), 1),
            Ranking((HELLO,), ((Message("assistant", "a"),), (Message("assistant", "b"),)), (0, 1)),
        ],
    )
    def test_equal_prompts(self, same: Conversation) -> None:
        assert group_key(same) == RECORDED_CHAT

    @pytest.mark.parametrize(
        "other",
        [
            chat("user: Say hello!", "assistant: Hello."),
            chat("system: Say hello.", "assistant: Hello."),
            chat("system: Be brief.", "user: Say hello.", "assistant: Hello."),
            chat("user: Say", "user: hello.", "assistant: Hello."),
            chat("assistant: Hi.", "user: Say hello.", "assistant: Hello."),
            Document("Say hello."),
        ],
    )
    def test_other_prompts(self, other: Conversation) -> None:
        assert group_key(other) != RECORDED_CHAT

    def test_turns_cannot_be_forged_in_content(self) -> None:
        """A message whose text looks like two messages is not two messages."""
        assert group_key(chat("user: a", "user: b")) != group_key(chat("user: a\nuser\nb"))

    def test_a_greeting_is_no_answer(self) -> None:
        """The system prompt and the greeting are the same everywhere; the question tells the groups apart."""
        opening = ("system: You are Ada.", "assistant: Hi, I am Ada.")
        first, second = (chat(*opening, f"user: {ask}", "assistant: Yes.") for ask in ("Tea?", "Milk?"))
        assert group_key(first) != group_key(second)
        assert group_key(first) == group_key(chat(*opening, "user: tea?", "assistant: No."))
        assert group_key(chat("assistant: One.")) != group_key(chat("assistant: Two."))

    @given(st.text())
    def test_any_text_has_a_key(self, text: str) -> None:
        assert 0 <= group_key(Conversation((Message("user", text),))) < 2**64

    def test_broken_text_has_one_too(self) -> None:
        assert group_key(chat("user: \ud800", "assistant: a")) != group_key(chat("user: \ud801", "assistant: a"))


GROUPS = st.lists(st.integers(0, 30), min_size=2, max_size=80).filter(lambda keys: len(set(keys)) > 1)
SHARES = st.floats(0.01, 0.99)


@given(keys=GROUPS, share=SHARES, seed=st.integers(-3, 3))
def test_every_row_on_one_side_and_no_group_on_both(keys: list[int], share: float, seed: int) -> None:
    group_S = np.array(keys, np.uint64)
    train, held = split_groups(group_S, share, seed=seed)
    assert sorted([*train, *held]) == list(range(len(keys)))
    assert list(train) == sorted(train)
    assert list(held) == sorted(held)
    assert len(train)
    assert len(held)
    assert not set(group_S[train].tolist()) & set(group_S[held].tolist())


@given(keys=GROUPS, share=SHARES, seed=st.integers(0, 3))
def test_no_further_group_would_bring_it_nearer(keys: list[int], share: float, seed: int) -> None:
    """Brute force: add each group that was left to train, and see whether the share gets better."""
    group_S = np.array(keys, np.uint64)
    train, held = split_groups(group_S, share, seed=seed)
    target, left = share * len(keys), group_S[train].tolist()
    for key in set(left):
        if len(set(left)) > 1:
            assert abs(len(held) + left.count(key) - target) >= abs(len(held) - target) - 1e-9


def test_a_split_by_rows_would_leak() -> None:
    """The control: what this file guards against happens as soon as rows are drawn instead of groups."""
    group_S = np.random.default_rng(0).integers(0, 300, 1000).astype(np.uint64)
    order = np.random.default_rng(1).permutation(1000)
    leaked = np.isin(group_S[order[:100]], group_S[order[100:]]).sum()
    assert leaked > 80
    train, held = split_groups(group_S, 0.1, seed=0)
    assert not np.isin(group_S[held], group_S[train]).any()
    assert len(held) == 100


def tree_paths(turn: dict[str, Any], before: tuple[Message, ...] = ()) -> Iterator[Conversation]:
    """Every conversation from the root of an OpenAssistant tree to one of its leaves."""
    role = {"prompter": "user", "assistant": "assistant"}[turn["role"]]
    messages = (*before, Message(role, turn["text"]))
    if not turn.get("replies"):
        yield Conversation(messages)
    for reply in turn.get("replies") or []:
        yield from tree_paths(reply, messages)


def test_conversations_of_published_trees(public_data: Path) -> None:
    """626 conversations grew from 100 prompts: of a tenth drawn by rows, 99.8 % (mean of 20 seeds) have a twin."""
    lines = (public_data / "oasst" / "en_100_tree.jsonl").read_text(encoding="utf-8").splitlines()
    found = [path for line in lines for path in tree_paths(json.loads(line)["prompt"])]
    group_S = np.array([group_key(conversation) for conversation in found], np.uint64)
    assert (len(group_S), len(np.unique(group_S))) == (626, 100)
    order = np.random.default_rng(0).permutation(626)
    assert np.isin(group_S[order[:63]], group_S[order[63:]]).mean() > 0.9
    train, held = split_groups(group_S, 0.1, seed=0)
    assert not np.isin(group_S[held], group_S[train]).any()
    assert abs(len(held) - 62.6) < 2


@pytest.mark.parametrize("seed", range(20))
def test_a_giant_group_does_not_swallow_the_split(seed: int) -> None:
    """Half of the rows have one prompt. In the order of some of the seeds it stands in the way, and is passed over."""
    group_S = np.concatenate((np.zeros(5000), np.arange(1, 5001))).astype(np.uint64)
    _, held = split_groups(group_S, 0.1, seed=seed)
    assert len(held) == 1000
    assert 0 not in group_S[held]


def test_groups_of_ten_fill_a_share_as_near_as_they_can() -> None:
    group_S = np.repeat(np.arange(100), 10).astype(np.uint64)
    assert [len(split_groups(group_S, share, seed=0)[1]) for share in (0.001, 0.104, 0.106, 0.5, 0.999)] == [
        10, 100, 110, 500, 990,
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_rows_that_join_move_few_groups(share: float) -> None:
    """A tenth more data: a fresh random split would move 2 * share * (1 - share) of the groups."""
    rng = np.random.default_rng(0)
    key_G = rng.integers(0, 2**63, 11_000).astype(np.uint64)
    before, after = key_G[:10_000], rng.permutation(key_G)
    was_held = np.isin(before, before[split_groups(before, share, seed=4)[1]])
    now_held = np.isin(before, after[split_groups(after, share, seed=4)[1]])
    assert (was_held != now_held).mean() < 0.1 * 2 * share * (1 - share)
    redrawn = np.isin(before, after[split_groups(after, share, seed=5)[1]])
    assert (was_held != redrawn).mean() > 0.9 * 2 * share * (1 - share)


def test_the_order_of_rows_does_not_matter() -> None:
    group_S = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64)
    order = np.random.default_rng(1).permutation(500)
    held, shuffled = split_groups(group_S, 0.2, seed=0)[1], split_groups(group_S[order], 0.2, seed=0)[1]
    assert set(group_S[held].tolist()) == set(group_S[order][shuffled].tolist())


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    group_S = np.arange(200, dtype=np.uint64)
    splits = [tuple(split_groups(group_S, 0.1, seed=seed)[1].tolist()) for seed in (0, 1, 2, 0)]
    assert splits[0] == splits[3]
    assert len(set(splits)) == 3


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"all 3 rows have the same prompt.*give held-out data of its own"):
        split_groups(np.full(3, 7, np.uint64), 0.5, seed=0)
    with pytest.raises(DataError, match="no row to hold out"):
        split_groups(np.zeros(0, np.uint64), 0.5, seed=0)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            split_groups(np.arange(3, dtype=np.uint64), share, seed=0)


def test_scrambled_numbers_stay_distinct_and_look_random() -> None:
    value_S = scramble(np.arange(100_000), seed_key(0, "test"))
    assert len(np.unique(value_S)) == len(value_S)
    bits = np.unpackbits(value_S.view(np.uint8)).reshape(-1, 64).mean(0)
    assert np.abs(bits - 0.5).max() < 0.01  # 6 standard deviations
    rank = np.argsort(np.argsort(value_S))
    assert abs(np.corrcoef(np.arange(100_000), rank)[0, 1]) < 0.02
    assert abs(np.corrcoef(np.argsort(scramble(np.arange(100_000), seed_key(1, "test"))), rank)[0, 1]) < 0.02
