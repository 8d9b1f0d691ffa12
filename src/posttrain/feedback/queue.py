"""Which item whom is shown next, in which order, and for how long it is kept for them.

One Queue serves one store, in one process. What it knows is read from the store when it is made, and every vote is on
the disk before it is remembered here, so a Queue that dies takes with it only when people were last seen.
"""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from posttrain.feedback.ballots import Assignment, Ballot, Item
from posttrain.feedback.bradley_terry import BradleyTerry, fit
from posttrain.feedback.comparisons import comparisons_of
from posttrain.feedback.rows import hold_item
from posttrain.feedback.selection import Candidate, choose, is_control
from posttrain.feedback.store import Store
from posttrain.feedback.verdicts import VERDICTS, Stale, Verdict, ballots_of, full_key

LEASE_S = 1800.0  # without a sign of life, after which an item may go to somebody else
REFRESH_S = 10.0  # between two looks for items that another process added
MAX_WEIGHED = 200  # items that are weighed against each other for one choice
REFIT_AFTER = 0.1  # new rankings, as a share of those known, after which the models are ranked again


Replacing = tuple[Ballot, tuple[int, ...]]  # a new ballot, and the ids of those that it replaces


@dataclass(slots=True)
class _Seat:
    """What is on one annotator's screen."""

    assignment: Assignment
    seen: float


@dataclass(slots=True)
class _History:
    """One annotator's verdicts that count, in the order of their casting, and what they wrote themselves, by item."""

    verdicts: dict[int, Ballot] = field(default_factory=dict)
    edits: dict[int, Ballot] = field(default_factory=dict)

    def items(self) -> set[int]:
        return {ballot.item_id for ballot in self.verdicts.values() if ballot.item_id is not None}


class Queue:
    """The items of a store and who works on them. Methods may be called from many threads."""

    def __init__(
        self,
        store: Store,
        *,
        random_share: float = 0.1,
        seed: int = 0,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.random_share, self.seed, self.lease_s, self.clock = store, random_share, seed, lease_s, clock
        self._lock = threading.RLock()
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._items: dict[int, Item] = {}
        self._candidates: dict[int, Candidate] = {}
        self._models: dict[int, str] = {}
        self._refreshed = -float("inf")
        self._keys: dict[str, int] = {}
        self._histories: dict[str, _History] = defaultdict(_History)
        self._rankings: Counter[int] = Counter()
        self._flags: Counter[int] = Counter()
        self._why: dict[int, str] = {}
        self._open: dict[int, Item] = {}
        self._share: dict[int, tuple[int, int]] = {}
        self._total = (0, 0)
        self._seats: dict[str, _Seat] = {}
        self._posterior: BradleyTerry | None = None
        self._num_fitted = 0
        for ballot in store.ballots(include_replaced=True):
            self._remember(ballot)
        self.refresh()
        self._take_seats_again()

    # What the page asks

    def next(self, annotator: str) -> Assignment | None:
        """What is on this annotator's screen, or what shall be there now; None where there is nothing for them."""
        with self._lock:
            seat = self._seats.get(annotator)
            if seat is not None and self._may_keep(annotator, seat):
                seat.seen = self.clock()
                return seat.assignment
            self.refresh()
            self._leave(annotator)
            item = self._choose(annotator)
            if item is None:
                return None
            made = self.store.assign(item.id, annotator, self.order(item, annotator))
            self._seats[annotator] = _Seat(made, self.clock())
            return made

    def order(self, item: Item, annotator: str) -> list[int]:
        """The answers as this annotator is to see them: the same each time, another for everybody."""
        ids = sorted(item.response_ids)
        random.Random(f"{self.seed}/{annotator}/{item.id}").shuffle(ids)
        return ids

    def alive(self, annotator: str, assignment_id: int) -> bool:
        """A sign of life from a page; False where what it shows is no longer this annotator's."""
        with self._lock:
            seat = self._seats.get(annotator)
            if seat is None or seat.assignment.id != assignment_id or not self._may_keep(annotator, seat):
                return False
            seat.seen = self.clock()
            return True

    def vote(self, annotator: str, verdict: Verdict, *, assignment_id: int | None = None, replaces: int = 0) -> int:
        """Store a verdict on the item on the screen, or in place of the ballot `replaces`; returns the ballot's id.

        The same key is stored once. Raises Stale where the page is behind, StoreError where the database is away, and
        ValueError where the verdict does not fit the item; then nothing is stored and the same may be sent again.
        """
        with self._turns[annotator]:
            known = self._keys.get(full_key(annotator, verdict))
            if known is not None:
                return known
            newest = self.store.guidelines()
            if verdict.guidelines != (newest and newest[0]):
                raise Stale("guidelines", "The guidelines have changed. Read what is new, then send your vote again.")
            if replaces:
                return self._correct(annotator, verdict, replaces)
            seat = self._seat_for(annotator, assignment_id)
            item = self._items[seat.assignment.item_id]
            ballots = ballots_of(verdict, annotator, item, seat.assignment.order, self._why)
            return self._store(annotator, [(ballot, ()) for ballot in ballots], closes=seat.assignment.id)

    def before(self, annotator: str, ballot_id: int | None = None) -> Ballot | None:
        """The annotator's verdict before that one; their last where none is named."""
        with self._lock:
            earlier = [ballot for id, ballot in self._histories[annotator].verdicts.items() if id != ballot_id]
            if ballot_id in self._histories[annotator].verdicts:
                earlier = [ballot for ballot in earlier if (ballot.id or 0) < (ballot_id or 0)]
            return max(earlier, key=lambda ballot: ballot.id or 0, default=None)

    def better(self, annotator: str, item_id: int) -> str:
        """The better answer that the annotator wrote for an item; empty where they wrote none."""
        with self._lock:
            edit = self._histories[annotator].edits.get(item_id)
            return "" if edit is None else str(edit.value)

    def progress(self, annotator: str) -> dict[str, int]:
        """How many items the annotator has voted on, how many rankings the team has, and how many are wanted."""
        with self._lock:
            team, wanted = self._total
            return {"mine": len(self._histories[annotator].verdicts), "team": team, "wanted": wanted}

    def refresh(self) -> None:
        """Take in what another process added to the store, at most every REFRESH_S."""
        with self._lock:
            if self.clock() - self._refreshed < REFRESH_S:
                return
            items = {item.id: item for item in self.store.items()}
            if len(items) > len(self._items):
                responses = {one.id: one for one in self.store.responses()}
                self._models = {id: one.model for id, one in responses.items() if one.model}
                for item in items.values():
                    scores = [responses[id].scores for id in item.response_ids]
                    # [K, E] in the store, [E, K] for the choice.
                    known = list(zip(*scores, strict=True)) if all(scores) else None  # type: ignore[arg-type]
                    models = tuple(responses[id].model for id in item.response_ids)
                    self._candidates[item.id] = Candidate(item.id, models, known, 0, item.overlap)
            changed = [id for id, item in items.items() if self._items.get(id) != item]
            self._items = items
            self._refreshed = self.clock()
            for id in changed:
                self._count(id)

    # Choosing

    def _choose(self, annotator: str) -> Item | None:
        """An item that others have begun, so that it gets done; else the one whose ballot is expected to tell most."""
        mine = self._histories[annotator].items()
        held = Counter(
            seat.assignment.item_id for name, seat in self._seats.items() if name != annotator and self._holds(seat)
        )

        def is_free(item: Item) -> bool:
            return item.id not in mine and self._rankings[item.id] + held[item.id] < item.overlap

        seed = f"{self.seed}/{annotator}/{len(mine)}"
        begun = [item for item in self._open.values() if self._rankings[item.id] or item.id in held]
        begun = [item for item in begun if is_free(item)]
        if begun:
            return random.Random(seed).choice(begun)
        free = [item for item in self._open.values() if is_free(item)]
        if not free:
            return None
        drawn = random.Random(seed).sample(free, min(len(free), MAX_WEIGHED))
        candidates = [self._candidates[item.id] for item in drawn]
        scored = any(candidate.scores is not None for candidate in candidates)
        found = choose(
            candidates,
            posterior=None if scored else self._fitted(),
            random_share=self.random_share,
            seed=self.seed,
            rng=random.Random(seed + "/choice").getrandbits(32),
        )
        if found is None:
            return None
        # Later ballots on the item share its reason.
        self._why[drawn[found[0]].id] = found[1]
        return drawn[found[0]]

    def _fitted(self) -> BradleyTerry | None:
        """What is known of the models, refitted once enough was added; None while there is nothing to compare."""
        num = self._rankings.total()
        if len(set(self._models.values())) >= 2 and num > self._num_fitted * (1 + REFIT_AFTER):
            self._num_fitted = num
            ballots = [ballot for history in self._histories.values() for ballot in history.verdicts.values()]
            found = comparisons_of(ballots, by="model", models=self._models)
            self._posterior = fit(found) if found else None
        return self._posterior

    def _count(self, item_id: int) -> None:
        """Keep what is open, and the team's progress, in step with an item."""
        item = self._items.get(item_id)
        if item is None:
            return
        num = self._rankings[item_id]
        share = (0, 0) if self._flags[item_id] else (min(num, item.overlap), item.overlap)
        before = self._share.get(item_id, (0, 0))
        self._total = (self._total[0] + share[0] - before[0], self._total[1] + share[1] - before[1])
        self._share[item_id] = share
        if share[0] < share[1]:
            self._open[item_id] = item
        else:
            self._open.pop(item_id, None)

    # Seats

    def _holds(self, seat: _Seat) -> bool:
        return self.clock() - seat.seen < self.lease_s

    def _may_keep(self, annotator: str, seat: _Seat) -> bool:
        """Whether the item is still theirs: it is not withdrawn, and nobody took their place while they were away."""
        item = self._items.get(seat.assignment.item_id)
        if item is None or self._flags[item.id] or item.id in self._histories[annotator].items():
            return False
        others = sum(
            other.assignment.item_id == item.id and self._holds(other)
            for name, other in self._seats.items()
            if name != annotator
        )
        return self._holds(seat) or self._rankings[item.id] + others < item.overlap

    def _leave(self, annotator: str) -> None:
        seat = self._seats.get(annotator)
        if seat is not None:
            self.store.close_assignment(seat.assignment.id)
            del self._seats[annotator]

    def _seat_for(self, annotator: str, assignment_id: int | None) -> _Seat:
        """The seat that a page claims, kept from now until its vote is stored. Raises Stale."""
        with self._lock:
            seat = self._seats.get(annotator)
            if seat is not None and seat.assignment.id == assignment_id and self._may_keep(annotator, seat):
                seat.seen = self.clock()
                return seat
            if assignment_id is None:
                raise ValueError("a vote names its assignment, or the ballot that it replaces")
            asked = seat.assignment if seat and seat.assignment.id == assignment_id else None
            asked = asked or next((a for a in self.store.assignments(annotator) if a.id == assignment_id), None)
            if asked is not None and asked.item_id in self._histories[annotator].items():
                raise Stale("answered", "You have already voted on this one, in another tab perhaps. Here is the next.")
            raise Stale("withdrawn", "This one has been withdrawn or given to somebody else. Here is the next.")

    def _take_seats_again(self) -> None:
        """After a restart everybody finds what was on their screen."""
        for assignment in self.store.assignments():
            if assignment.closed is None and assignment.item_id in self._items:
                seat = _Seat(assignment, self.clock())
                if assignment.annotator not in self._seats and self._may_keep(assignment.annotator, seat):
                    self._seats[assignment.annotator] = seat
                    of_control = is_control(assignment.item_id, self.random_share, self.seed)
                    self._why.setdefault(assignment.item_id, "control" if of_control else "unknown")
                else:
                    self.store.close_assignment(assignment.id)

    # Votes

    def _correct(self, annotator: str, verdict: Verdict, replaces: int) -> int:
        """Store a verdict in place of an earlier one of the same annotator."""
        with self._lock:
            history = self._histories[annotator]
            old = history.verdicts.get(replaces)
            item = None if old is None else self._items.get(old.item_id or 0)
            if old is None or item is None:
                raise Stale("answered", "That vote has been corrected already, in another tab perhaps.")
            if old.kind != "ranking" and verdict.kind == "ranking":
                others = (name for name, seat in self._seats.items() if name != annotator and self._holds(seat))
                held = sum(self._seats[name].assignment.item_id == item.id for name in others)
                if self._rankings[item.id] + held >= item.overlap:
                    raise Stale("withdrawn", "Meanwhile enough others have voted on that one.")
            ballots = ballots_of(verdict, annotator, item, old.details.get("shown", old.response_ids), self._why)
            pairs: list[Replacing] = [(ballots[0], (replaces,))]
            edit = history.edits.get(item.id)
            if edit is None:
                pairs += [(ballot, ()) for ballot in ballots[1:]]
            elif len(ballots) == 1:
                pairs = [(ballots[0], (replaces, edit.id or 0))]  # a better answer that its writer took back
            elif ballots[1].value != edit.value:
                pairs.append((ballots[1], (edit.id or 0,)))
            return self._store(annotator, pairs)

    def _store(self, annotator: str, ballots: Sequence[Replacing], *, closes: int | None = None) -> int:
        """Commit ballots, each with those that it replaces, all or none; returns the first's id. Raises Stale where the
        same person voted on the item through another server of this store."""
        stored = []
        main, replaces = ballots[0]
        with self.store.batch() as connection:
            hold_item(connection, main.item_id or 0)
            there = self._verdicts_there(annotator, main.item_id or 0)
            known = self._histories[annotator].verdicts.keys()
            is_known = all(id in known or one.key == main.key for id, one in there.items())
            is_there = not replaces or replaces[0] in there or main.key in {one.key for one in there.values()}
            if is_known and is_there:
                for ballot, old in ballots:
                    stored.append(replace(ballot, id=self.store.vote(ballot, replaces=old)))
            if closes is not None:
                self.store.close_assignment(closes)
        with self._lock:
            if closes is not None and annotator in self._seats:
                del self._seats[annotator]
            if not stored:
                self._learn(annotator, main.item_id or 0)
                raise Stale("answered", "You have already voted on this one, through another server. Here is the next.")
            for ballot, (_, old) in zip(stored, ballots, strict=True):
                for id in old:
                    self._forget(annotator, id)
                self._remember(ballot)
        return stored[0].id or 0

    def _verdicts_there(self, annotator: str, item_id: int) -> dict[int, Ballot]:
        """The annotator's verdicts on an item that count, by id, as the store has them now."""
        there = self.store.ballots(item_id=item_id, annotator=annotator, source="person")
        return {one.id or 0: one for one in there if one.kind in VERDICTS and "withdraws" not in one.details}

    def _learn(self, annotator: str, item_id: int) -> None:
        """Take in what another server of this store was told of an item."""
        history = self._histories[annotator]
        for old in [id for id, ballot in history.verdicts.items() if ballot.item_id == item_id]:
            self._forget(annotator, old)
        history.edits.pop(item_id, None)
        for ballot in self.store.ballots(item_id=item_id, annotator=annotator):
            self._remember(ballot)

    def _remember(self, ballot: Ballot) -> None:
        if ballot.key:
            self._keys[ballot.key] = ballot.id or 0
        counts = ballot.replaced_by is None and ballot.source == "person" and "withdraws" not in ballot.details
        if not counts or ballot.item_id is None:
            return
        if ballot.kind == "edit":
            self._histories[ballot.annotator].edits[ballot.item_id] = ballot
        elif ballot.kind in VERDICTS:
            self._histories[ballot.annotator].verdicts[ballot.id or 0] = ballot
            self._rankings[ballot.item_id] += ballot.kind == "ranking"
            self._flags[ballot.item_id] += ballot.kind == "flag"
            self._count(ballot.item_id)
            if "chosen_by" in ballot.details:
                self._why[ballot.item_id] = str(ballot.details["chosen_by"])

    def _forget(self, annotator: str, id: int) -> None:
        """A ballot that was replaced counts no longer."""
        history = self._histories[annotator]
        old = history.verdicts.pop(id, None)
        if old is not None and old.item_id is not None:
            self._rankings[old.item_id] -= old.kind == "ranking"
            self._flags[old.item_id] -= old.kind == "flag"
            self._count(old.item_id)
        history.edits = {item: edit for item, edit in history.edits.items() if edit.id != id}
