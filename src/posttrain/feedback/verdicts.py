"""What an annotator says of one item on their screen, and the ballots that it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from posttrain.feedback.ballots import Ballot, Item

VERDICTS = ("ranking", "skip", "flag")  # what can be said of an item; a better answer goes beside


class Stale(Exception):
    """The page is behind: what it shows can no longer be voted on. `reason` is a word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an annotator said of one item. `places[i]`: the place of the i-th answer shown, 0 the best; None: no place.
    `reason`: of a skip or a flag. `better`: an answer that they wrote themselves. `key`: the page's, one a showing."""

    kind: str
    key: str
    places: tuple[int | None, ...] = ()
    all_bad: bool = False
    reason: str = ""
    better: str = ""
    comment: str = ""
    seconds: float | None = None
    guidelines: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in VERDICTS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(VERDICTS)}")
        if not self.key.strip():
            raise ValueError("a vote needs a key, so that it is not counted twice")
        if self.kind == "ranking" and sum(place is not None for place in self.places) < 2:
            raise ValueError("a ranking places at least two answers")


def full_key(annotator: str, verdict: Verdict) -> str:
    """The key of the stored ballot: nobody's key can be another's."""
    return f"{annotator}/{verdict.key}"


def ballots_of(
    verdict: Verdict, annotator: str, item: Item, order: Sequence[int], why: Mapping[int, str]
) -> list[Ballot]:
    """The verdict first, then the better answer where one was written. `order`: the answers as they were shown; `why`:
    what chose each item. Raises ValueError where the verdict does not fit the item."""
    ranked = verdict.kind == "ranking"
    if ranked and len(verdict.places) != len(order):
        raise ValueError(f"got {len(verdict.places)} places for {len(order)} answers")
    placed = [(id, place) for id, place in zip(order, verdict.places, strict=False) if place is not None]
    rank_of = {place: rank for rank, place in enumerate(sorted({place for _, place in placed}))}
    details: dict[str, object] = {"shown": list(order)}
    if item.id in why:
        details["chosen_by"] = why[item.id]
    main = Ballot(
        verdict.kind,
        item.prompt_id,
        tuple(id for id, _ in placed) if ranked else tuple(order),
        annotator,
        item_id=item.id,
        ranks=tuple(rank_of[place] for _, place in placed) if ranked else None,
        all_bad=verdict.all_bad and ranked,
        value=None if ranked else verdict.reason,
        comment=verdict.comment,
        guidelines=verdict.guidelines,
        seconds=verdict.seconds,
        key=full_key(annotator, verdict),
        details=details,
    )
    if not verdict.better.strip():
        return [main]
    beside = {"ranks": None, "all_bad": False, "comment": "", "response_ids": tuple(order)}
    return [main, replace(main, kind="edit", value=verdict.better, key=f"{main.key}/better", **beside)]  # type: ignore[arg-type]
