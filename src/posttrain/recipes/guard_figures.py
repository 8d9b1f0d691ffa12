"""What guardrails made of texts, in figures with intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.intervals import wilson


@dataclass(frozen=True, slots=True)
class Met:
    """What a text met. `refuse`: whether it was to be refused; None where the data does not say. `left`: the text that
    was let through, where that is another one."""

    text: str
    action: str
    rule: str = ""
    told: str = ""
    refuse: bool | None = None
    left: str | None = None


def figures(met: Sequence[Met]) -> dict[str, Any]:
    """Shares with Wilson's 95 % interval, each as (count, of how many, share, low, high).

    precision: of what was refused, that was to be; recall: of what was to be refused, that was; over_refusal: of what
    was to be allowed, that was refused. Without labels the share of what was refused alone.
    """
    labelled = [each for each in met if each.refuse is not None]
    refused = [each.action == "refuse" for each in met]
    found: dict[str, Any] = {
        "num_texts": len(met),
        "rules": dict(Counter(f"{each.rule} ({each.action})" for each in met if each.action != "allow").most_common()),
        "refused": _share(refused),
    }
    if not labelled:
        return found
    stopped = [each for each in labelled if each.action == "refuse"]
    return found | {
        "precision": _share([bool(each.refuse) for each in stopped]),
        "recall": _share([each.action == "refuse" for each in labelled if each.refuse]),
        "over_refusal": _share([each.action == "refuse" for each in labelled if not each.refuse]),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The figures, one a line."""
    names = {
        "refused": "refused, of all texts", "precision": "precision: of those refused, rightly",
        "recall": "recall: of those to refuse, refused", "over_refusal": "over-refusal: of those to allow, refused",
    }  # fmt: skip
    said = []
    for name, words in names.items():
        share = found.get(name)
        if share is not None:
            said.append(
                f"{words:<42} {share['value']:7.1%}  [{share['low']:.1%}, {share['high']:.1%}]  "
                f"{share['count']:,} of {share['of']:,}"
            )
    return [*said, *(f"  {count:6,}  {rule}" for rule, count in found["rules"].items())]


def _share(values: Sequence[bool]) -> dict[str, float] | None:
    if not values:
        return None
    low, high = wilson(sum(values), len(values))
    return {"count": sum(values), "of": len(values), "value": sum(values) / len(values), "low": low, "high": high}
