import random

from posttrain.pocket.arithmetic import (
    arithmetic_document,
    heldout_pairs,
    is_heldout_sum,
    sum_question,
    training_pairs,
    worked,
)


def test_one_tenth_of_the_two_digit_sums_is_held_out() -> None:
    share = len(heldout_pairs()) / 90**2
    assert 0.09 <= share <= 0.11
    assert len(heldout_pairs()) + len(training_pairs()) == 90**2


def test_held_out_in_either_order_and_never_round() -> None:
    for a, b in heldout_pairs():
        assert is_heldout_sum(b, a)
        assert a % 10
        assert b % 10
    assert not is_heldout_sum(7, 12)
    assert not is_heldout_sum(112, 12)


def test_worked_steps() -> None:
    assert worked(34, 52) == "34 + 52: 4 + 2 = 6, 30 + 50 = 80, so 34 + 52 = 86."
    assert worked(38, 57) == "38 + 57: 8 + 7 = 15, 30 + 50 = 80, 80 + 15 = 95, so 38 + 57 = 95."


def test_documents_follow_the_random_state() -> None:
    assert arithmetic_document(random.Random(3)) == arithmetic_document(random.Random(3))
    assert arithmetic_document(random.Random(3)) != arithmetic_document(random.Random(4))
    assert sum_question(random.Random(3)).endswith("?")
