"""What the figures of an A/B test come to, in words."""

from collections.abc import Mapping
from typing import Any

VERDICTS = ("broken", "guard", "worse", "better", "futile", "open")


def recommend(state: Mapping[str, Any]) -> dict[str, str]:
    """`verdict`, one of VERDICTS, and a sentence for each new arm. A broken split comes before everything, then a guard
    that is passed."""
    ratio = state["sample_ratio"]
    if ratio["is_mismatch"]:
        return {
            "verdict": "broken",
            "said": "Stop and look at the split: the arms did not get the users that were dealt to them, so no figure "
            "here can be trusted.",
        }
    rows = [_of(row, state) for row in state["comparisons"]]
    order = ("guard", "better", "open", "worse", "futile")  # of several new arms the first that there is
    first = min((verdict for verdict, _ in rows), key=order.index)
    return {"verdict": first, "said": " ".join(said for _, said in rows)}


def _of(row: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, str]:
    passed = [guard for guard in row["guards"] if guard["verdict"] == "passed"]
    if passed:
        kinds = ", ".join(f"{guard['kind']} by more than {100 * guard['most']:.1f} points" for guard in passed)
        return "guard", f"Stop: {row['arm']} is past a guard: {kinds}."
    pair = next((one for one in state["pairs"] if (one["arm"], one["versus"]) == (row["arm"], row["versus"])), None)
    beside = ""
    if pair is not None:
        rates = f"{pair['low']:.0%} to {pair['high']:.0%}"
        if not row["always"]["num_users"]:  # nobody voted on one answer alone: the comparisons are all there is
            return pair["verdict"], _said(pair, row["arm"], row["versus"], f"wins {rates}", state)
        beside = f" Side by side it wins {rates} of the time." if pair["verdict"] in ("better", "worse") else ""
    always = row["always"]
    between = f"{points(always['low'])} to {points(always['high'])} points"
    return always["verdict"], _said(always, row["arm"], row["versus"], between, state) + beside


def _said(found: Mapping[str, Any], arm: str, old: str, between: str, state: Mapping[str, Any]) -> str:
    hours, mde = f"{state['window_hours']:g}", state["mde"]
    waiting = f": {state['pending']:,} are within {hours} hours of their first vote" if state["pending"] else ""
    if not found["num_users"]:
        return f"No user of {arm} or {old} has been counted yet{waiting}."
    if found["verdict"] in ("better", "worse"):
        return f"Stop: {arm} is {found['verdict']} than {old} ({between})."
    if found["verdict"] == "futile":
        return f"Stop: {arm} is not better by {100 * mde:.1f} points or more ({between})."
    more = found["num_more"]
    until = "" if more is None else f": about {more:,} more users, if things stay as they are"
    return f"Go on with {arm}{until}."


def warnings(state: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    ratio = state["sample_ratio"]
    if ratio["is_mismatch"]:
        shares = "; ".join(
            f"{arm}: {num:,} where {ratio['expected'][arm]:,.0f} were expected" for arm, num in ratio["users"].items()
        )
        found.append(f"Sample ratio mismatch among {ratio['of']} (p = {ratio['p_value']:.1g}): {shares}.")
    voting = state["voting"]
    if voting is not None and voting["is_mismatch"] and not ratio["is_mismatch"]:
        voters = ", ".join(f"{arm} {num:,}" for arm, num in voting["users"].items())
        found.append(f"The arms' users do not vote equally often ({voters}): the means are of those who do.")
    if state["without_chances"]:
        found.append(f"{state['without_chances']:,} users were left out: with what chance they got their arm is lost.")
    if state["moved"]:
        found.append(f"{state['moved']:,} votes of users on an arm that was not theirs were left out.")
    if state["foreign"]:
        found.append(f"{state['foreign']:,} outcomes of other models, or from before this test, were left out.")
    if any(row["is_adaptive"] for row in state["comparisons"]):
        found.append("The split changes with the votes: the plain interval is not valid here, not even for one look.")
    return found


def points(value: float) -> str:
    """A difference of shares in points, with a sign: "+3.2"."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
