"""Who is shown what: overlap, leases, orders, corrections, and what survives a restart."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.errors import StoreError
from posttrain.feedback.ballots import Assignment, Ballot
from posttrain.feedback.queue import Queue
from posttrain.feedback.selection import is_control
from posttrain.feedback.store import Store
from posttrain.feedback.verdicts import Stale, Verdict
from posttrain.types import Message

Fill = Callable[..., list[int]]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fill() -> Fill:
    """`fill(store, num_items)`: items of `num_answers` answers by as many models; their ids."""

    def add(store: Store, num_items: int, *, num_answers: int = 2, overlap: int = 1, first: int = 0) -> list[int]:
        made = []
        for number in range(first, first + num_items):
            prompt = store.add_prompt([Message("user", f"question {number}")])
            ids = [
                store.add_response(prompt, [Message("assistant", f"{number}: answer {i}")], model=f"model-{i}")
                for i in range(num_answers)
            ]
            made.append(store.add_item(prompt, ids, overlap=overlap))
        return made

    return add


def verdict(key: str, *places: int | None, kind: str = "ranking", **more: object) -> Verdict:
    return Verdict(kind, key, places, **more)  # type: ignore[arg-type]


def work(queue: Queue, name: str, key: str, *places: int | None, **more: object) -> int:
    """One vote on whatever is on the annotator's screen."""
    seat = queue.next(name)
    assert seat is not None
    return queue.vote(name, verdict(key, *(places or range(len(seat.order))), **more), assignment_id=seat.id)


def test_a_reload_shows_the_same(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 9, num_answers=4)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    assert queue.next("ann") == seat
    assert Queue(sqlite_store, seed=1).next("ann") == seat, "after a restart too"


def test_orders_are_seeded_shuffled_and_different(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 40, num_answers=4)
    items = sqlite_store.items()
    queue = Queue(sqlite_store, seed=3)
    orders = {name: [tuple(queue.order(item, name)) for item in items] for name in ("ann", "bob")}
    assert orders["ann"] == [tuple(Queue(sqlite_store, seed=3).order(item, "ann")) for item in items]
    assert sum(a != b for a, b in zip(orders["ann"], orders["bob"], strict=True)) > 30
    firsts = Counter(item.response_ids.index(order[0]) for item, order in zip(items, orders["ann"], strict=True))
    assert len(firsts) == 4, "every model stands on the left at times"


def test_ranks_belong_to_the_answers_that_were_shown(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1, num_answers=4)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    queue.vote("ann", verdict("k", 2, None, 0, 2, comment="why"), assignment_id=seat.id)
    (ballot,) = sqlite_store.ballots()
    a, _, c, d = seat.order
    assert ballot.response_ids == (a, c, d)
    assert ballot.ranks == (1, 0, 1)
    assert ballot.details["shown"] == list(seat.order)
    assert ballot.comment == "why"


def test_nobody_twice_and_no_item_too_often(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 12, overlap=2)
    queue = Queue(sqlite_store)
    faults: list[BaseException] = []

    def annotate(name: str) -> None:
        try:
            number = 0
            while queue.next(name) is not None:
                work(queue, name, f"key{number}")
                number += 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=annotate, args=(name,)) for name in ("ann", "bob", "cyd", "dan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    pairs = [(ballot.item_id, ballot.annotator) for ballot in sqlite_store.ballots()]
    assert len(pairs) == len(set(pairs)) == 24
    assert set(Counter(item for item, _ in pairs).values()) == {2}
    assert queue.progress("ann")["team"] == queue.progress("ann")["wanted"] == 24


def test_begun_items_come_first(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 30, overlap=2)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    other = queue.next("bob")
    assert other is not None
    assert other.item_id == seat.item_id
    third = queue.next("cyd")
    assert third is not None
    assert third.item_id != seat.item_id, "two people hold it already"


def test_an_abandoned_item_goes_to_somebody_else(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    clock = Clock()
    queue = Queue(sqlite_store, lease_s=100, clock=clock)
    left = queue.next("ann")
    assert left is not None
    assert queue.next("bob") is None
    clock.now = 90
    assert queue.alive("ann", left.id)
    clock.now = 180
    assert queue.next("bob") is None, "a sign of life keeps the item"
    clock.now = 191
    taken = queue.next("bob")
    assert taken is not None
    assert not queue.alive("ann", left.id)
    with pytest.raises(Stale, match="given to somebody else") as caught:
        queue.vote("ann", verdict("late", 0, 1), assignment_id=left.id)
    assert caught.value.reason == "withdrawn"
    queue.vote("bob", verdict("key", 0, 1), assignment_id=taken.id)
    assert [ballot.annotator for ballot in sqlite_store.ballots()] == ["bob"]


def test_a_late_vote_counts_where_nobody_took_the_item(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    clock = Clock()
    queue = Queue(sqlite_store, lease_s=100, clock=clock)
    seat = queue.next("ann")
    assert seat is not None
    clock.now = 5_000
    queue.vote("ann", verdict("late", 0, 1), assignment_id=seat.id)
    assert len(sqlite_store.ballots()) == 1


def test_the_same_key_is_one_ballot(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 2)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    said = verdict("key", 0, 1)
    first = queue.vote("ann", said, assignment_id=seat.id)
    assert queue.vote("ann", said, assignment_id=seat.id) == first
    assert Queue(sqlite_store).vote("ann", said, assignment_id=seat.id) == first, "after a restart too"
    assert len(sqlite_store.ballots(include_replaced=True)) == 1
    work(queue, "bob", "key")
    assert len(sqlite_store.ballots()) == 2, "the same key of somebody else is another"


def test_two_at_once_with_the_same_key(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 2)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    found: list[int] = []
    vote = lambda: found.append(queue.vote("ann", verdict("key", 0, 1), assignment_id=seat.id))  # noqa: E731
    threads = [threading.Thread(target=vote) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(sqlite_store.ballots()) == 1


def test_another_tab_was_faster(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 2)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    queue.vote("ann", verdict("tab one", 0, 1), assignment_id=seat.id)
    with pytest.raises(Stale, match="already voted") as caught:
        queue.vote("ann", verdict("tab two", 1, 0), assignment_id=seat.id)
    assert caught.value.reason == "answered"
    assert len(sqlite_store.ballots()) == 1


def test_two_servers_store_no_verdict_twice(address: str, fill: Fill) -> None:
    """Neither one after the other nor at once, and the slower one learns of it and goes on."""
    with Store.open(address) as store, Store.open(address) as other:
        fill(store, 8, overlap=2)
        queues = [Queue(store), Queue(other)]
        seats = [queue.next("ann") for queue in queues]
        assert seats[0] is not None
        assert seats[0] == seats[1]
        first = queues[0].vote("ann", verdict("one server", 0, 1, better="mine"), assignment_id=seats[0].id)
        with pytest.raises(Stale) as caught:
            queues[1].vote("ann", verdict("another", 1, 0), assignment_id=seats[0].id)
        assert caught.value.reason == "answered"
        assert [ballot.kind for ballot in store.ballots()] == ["ranking", "edit"]
        assert queues[1].better("ann", seats[0].item_id) == "mine"
        assert (queues[1].before("ann") or verdict("none", 0, 1)).key == "ann/one server"
        after = queues[1].next("ann")
        assert after is not None
        assert after.item_id != seats[0].item_id
        queues[1].vote("ann", verdict("a correction", 1, 0, better="mine"), replaces=first)
        assert queues[0].vote("ann", verdict("a correction", 1, 0, better="mine"), replaces=first), "sent to both"
        queues[1].vote("ann", verdict("a second one", 0, 0, better="mine"), replaces=queues[1].before("ann").id)  # type: ignore[union-attr]
        with pytest.raises(Stale):
            queues[0].vote("ann", verdict("too late", 0, 1), replaces=queues[0].before("ann").id)  # type: ignore[union-attr]
        assert [ballot.ranks for ballot in store.ballots() if ballot.kind == "ranking"] == [(0, 0)]

        for number in range(5):
            found: list[object] = []
            seat = Queue(store).next("bob")
            assert seat is not None
            apart = [Queue(store), Queue(other)]
            start = threading.Barrier(2)

            def vote(queue: Queue, key: str, seat: Assignment, start: threading.Barrier, found: list[object]) -> None:
                start.wait()
                try:
                    found.append(queue.vote("bob", verdict(key, 0, 1), assignment_id=seat.id))
                except Stale as error:
                    found.append(error.reason)

            threads = [
                threading.Thread(target=vote, args=(queue, f"{number}/{place}", seat, start, found))
                for place, queue in enumerate(apart)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found.count("answered") == 1
            assert len(store.ballots(item_id=seat.item_id, annotator="bob")) == 1


def test_an_imported_verdict_can_be_corrected(sqlite_store: Store, fill: Fill) -> None:
    """Imports may bring a person's second verdict on an item; the page must not take it for another server's."""
    (id,) = fill(sqlite_store, 1, overlap=2)
    (item,) = sqlite_store.items()
    for key in ("one", "two"):
        ballot = Ballot("ranking", item.prompt_id, item.response_ids, "ann", item_id=id, ranks=(0, 1), key=key)
        last = sqlite_store.vote(ballot)
    new = Queue(sqlite_store).vote("ann", verdict("new", 1, 0), replaces=last)
    assert [ballot.id for ballot in sqlite_store.ballots()] == [1, new]


def test_guidelines_that_the_store_never_had(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    with pytest.raises(Stale) as caught:
        queue.vote("ann", verdict("a", 0, 1, guidelines=5), assignment_id=seat.id)
    assert caught.value.reason == "guidelines"
    assert queue.vote("ann", verdict("b", 0, 1), assignment_id=seat.id)


def test_new_guidelines_stop_an_old_page(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    old = sqlite_store.set_guidelines("be kind")
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    new = sqlite_store.set_guidelines("be right")
    with pytest.raises(Stale) as caught:
        queue.vote("ann", verdict("a", 0, 1, guidelines=old), assignment_id=seat.id)
    assert caught.value.reason == "guidelines"
    assert queue.next("ann") == seat
    queue.vote("ann", verdict("b", 0, 1, guidelines=new), assignment_id=seat.id)
    assert [ballot.guidelines for ballot in sqlite_store.ballots()] == [new]


def test_a_flag_takes_the_item_out_for_everybody(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1, overlap=3)
    queue = Queue(sqlite_store)
    held = queue.next("bob")
    assert held is not None
    flag = work(queue, "ann", "f", kind="flag", reason="broken")
    with pytest.raises(Stale):
        queue.vote("bob", verdict("b", 0, 1), assignment_id=held.id)
    assert queue.next("bob") is None
    assert queue.next("cyd") is None
    assert queue.progress("ann") == {"mine": 1, "team": 0, "wanted": 0}
    queue.vote("ann", verdict("r", 0, 1), replaces=flag)
    assert queue.next("cyd") is not None, "a flag that is taken back lets it in again"


def test_a_skip_leaves_the_place_to_somebody_else(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    queue = Queue(sqlite_store)
    skip = work(queue, "ann", "s", kind="skip")
    assert queue.next("ann") is None
    work(queue, "bob", "k")
    with pytest.raises(Stale, match="enough others"):
        queue.vote("ann", verdict("r", 0, 1), replaces=skip)


def test_corrections_replace_and_keep(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 3)
    queue = Queue(sqlite_store)
    first = work(queue, "ann", "k0", 0, 1, better="mine")
    second = work(queue, "ann", "k1", 0, 1)
    here = queue.before("ann")
    assert here is not None
    assert here.id == second
    there = queue.before("ann", second)
    assert there is not None
    assert there.id == first
    assert queue.before("ann", first) is None
    assert queue.before("bob") is None
    assert queue.better("ann", there.item_id or 0) == "mine"
    new = queue.vote("ann", verdict("k2", 1, 0, better="mine too"), replaces=first)
    with pytest.raises(Stale, match="corrected already"):
        queue.vote("ann", verdict("k3", 1, 1), replaces=first)
    with pytest.raises(Stale):
        queue.vote("bob", verdict("k4", 1, 1), replaces=new)
    for kept in (queue, Queue(sqlite_store)):
        assert kept.better("ann", there.item_id or 0) == "mine too"
        assert kept.progress("ann") == {"mine": 2, "team": 2, "wanted": 3}
    current = [(ballot.kind, ballot.ranks, ballot.value) for ballot in sqlite_store.ballots(item_id=there.item_id)]
    assert sorted(current, key=str) == [("edit", None, "mine too"), ("ranking", (1.0, 0.0), None)]
    assert len(sqlite_store.ballots(include_replaced=True)) == 5


def test_a_better_answer_can_be_taken_back(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 2)
    queue = Queue(sqlite_store)
    first = work(queue, "ann", "k0", better="mine")
    item = sqlite_store.ballots()[0].item_id or 0
    queue.vote("ann", verdict("k1", 0, 1), replaces=first)
    for kept in (queue, Queue(sqlite_store)):
        assert kept.better("ann", item) == ""
        assert kept.progress("ann")["mine"] == 1
    assert "edit" not in {ballot.kind for ballot in sqlite_store.ballots()}
    assert {ballot.kind for ballot in sqlite_store.ballots()} == {"ranking"}, "nobody skipped anything"
    assert len(sqlite_store.ballots(include_replaced=True)) == 3, "nothing is deleted"


def test_a_vote_that_fails_half_way_leaves_nothing(
    sqlite_store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_store, 1)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    vote, calls = Store.vote, []

    def breaks(store: Store, ballot: Ballot, *, replaces: tuple[int, ...] = ()) -> int:
        calls.append(ballot.kind)
        if ballot.kind == "edit":
            raise StoreError("gone")
        return vote(store, ballot, replaces=replaces)

    monkeypatch.setattr(Store, "vote", breaks)
    said = verdict("k", 0, 1, better="mine")
    with pytest.raises(StoreError):
        queue.vote("ann", said, assignment_id=seat.id)
    assert calls == ["ranking", "edit"]
    assert sqlite_store.ballots() == []
    assert queue.next("ann") == seat
    monkeypatch.undo()
    queue.vote("ann", said, assignment_id=seat.id)
    assert [ballot.kind for ballot in sqlite_store.ballots()] == ["ranking", "edit"]


def test_random_share_and_reason_are_kept(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 30, overlap=2)
    for share, wanted in ((1.0, {"control"}), (0.0, {"random", "information"})):
        name = f"ann{share}"
        queue = Queue(sqlite_store, random_share=share)
        for number in range(10):
            work(queue, name, f"k{number}")
        ballots = sqlite_store.ballots(annotator=name)
        reasons = {str(ballot.details["chosen_by"]).split()[0] for ballot in ballots}
        # The second one finishes what the first began, and those are of the control.
        assert reasons <= wanted | {"control"}
        assert share < 1 or reasons == {"control"}


def test_the_control_is_drawn_before_any_vote(sqlite_store: Store, fill: Fill) -> None:
    """A third of the items by seed and id alone, all shown in the end, and a restart with an open seat forgets none."""
    items = fill(sqlite_store, 60)
    drawn = {id for id in items if is_control(id, 0.3, 7)}
    queue = Queue(sqlite_store, random_share=0.3, seed=7)
    for number in range(60):
        seat = queue.next("ann")
        if number % 5 == 0:
            queue = Queue(sqlite_store, random_share=0.3, seed=7)
        assert seat is not None
        queue.vote("ann", verdict(f"key {number}", 0, 1), assignment_id=seat.id)
    why = {ballot.item_id: str(ballot.details["chosen_by"]).split()[0] for ballot in sqlite_store.ballots()}
    assert {id for id in items if why[id] == "control"} == drawn
    assert set(why.values()) <= {"control", "information", "random", "unknown"}


def test_the_uncertain_item_comes_first(sqlite_store: Store, fill: Fill) -> None:
    """A reward-model ensemble that disagrees on one item only."""
    items = fill(sqlite_store, 8)
    for item in sqlite_store.items():
        for place, id in enumerate(item.response_ids):
            torn = [3.0, -3.0] if place else [-3.0, 3.0]
            sqlite_store.set_scores(id, torn if item.id == items[5] else [float(place)] * 2)
    seat = Queue(sqlite_store, random_share=0).next("ann")
    assert seat is not None
    assert seat.item_id == items[5]


def test_items_that_appear_later_are_seen(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    clock = Clock()
    queue = Queue(sqlite_store, clock=clock)
    work(queue, "ann", "k0")
    assert queue.next("ann") is None
    fill(sqlite_store, 1, first=1)
    clock.now = 60
    assert queue.next("ann") is not None


def test_verdicts_that_make_no_sense(sqlite_store: Store, fill: Fill) -> None:
    fill(sqlite_store, 1)
    queue = Queue(sqlite_store)
    seat = queue.next("ann")
    assert seat is not None
    for wrong in ((0,), (None, 0), ()):
        with pytest.raises(ValueError, match="at least two"):
            verdict("k", *wrong)
    with pytest.raises(ValueError, match="3 places for 2 answers"):
        queue.vote("ann", verdict("k", 0, 1, 2), assignment_id=seat.id)
    with pytest.raises(ValueError, match="key"):
        verdict(" ", 0, 1)
    with pytest.raises(ValueError, match="kind"):
        verdict("k", 0, 1, kind="praise")
    assert sqlite_store.ballots() == []


def test_on_both_databases(address: str, fill: Fill) -> None:
    with Store.open(address) as store:
        fill(store, 3, overlap=2, num_answers=3)
        queue = Queue(store)
        first = work(queue, "ann", "k0", 0, 0, 1, better="mine ✓")
        queue.vote("ann", verdict("k1", 2, 1, 0), replaces=first)
        work(queue, "bob", "k0", all_bad=True)
        again = Queue(store)
        assert again.progress("ann") == queue.progress("ann") == {"mine": 1, "team": 2, "wanted": 6}


def test_the_store_is_a_file(tmp_path: Path, fill: Fill) -> None:
    """The queue reads an open seat of a process that died."""
    with Store.open(tmp_path / "a.db") as store:
        fill(store, 5)
        seat = Queue(store).next("ann")
    with Store.open(tmp_path / "a.db") as store:
        assert Queue(store).next("ann") == seat
