"""Which weights a server serves: a few tokens, scored there and by the trainer, remembered for every hand-over."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from posttrain.errors import ModelError
from posttrain.models.load import Policy
from posttrain.rollouts.decode_probe import NUM_PROMPT, NUM_SAID, TOLERANCE, USUAL, probe_ids, trained_logps

REMEMBERED = 8  # versions of which the figures are kept, to name the one that a server still has
# By how much the trainer's own figures have to move (mean, nats) before equal figures of the server betray old weights:
# below this, rounding to the server's precision may hide the step.
SEEN = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 5e-3}
NUM_DRAWN = 8


@dataclass
class Probe:
    """The trainer's figures of each version, and what each server answered to the one before. `dtype`: that of the
    server's weights."""

    dtype: torch.dtype
    ids: list[int] = field(default_factory=list)
    figures: dict[int, list[float]] = field(default_factory=dict)
    answered: dict[str, tuple[int, list[float]]] = field(default_factory=dict)
    """By address: the version that was handed over, and the figures then."""

    @property
    def prompt(self) -> list[int]:
        """What the probe's answers are drawn behind."""
        return self.ids[:NUM_PROMPT]

    def take(self, policy: Policy, version: int) -> None:
        """Score the probe by the trainer's path. In several processes all of them call this. Raises ModelError where
        the weights are no numbers."""
        ids = probe_ids(policy)
        self.ids = ids.tolist()
        with torch.no_grad(), torch.autocast(policy.device.type, enabled=False):
            found = trained_logps(policy, ids)
        if not bool(found.isfinite().all()):
            raise ModelError(
                "the policy's log-probabilities of a few probe tokens are not numbers: its weights hold NaN or "
                "infinity; go back to an earlier checkpoint, or lower the learning rate."
            )
        self.figures[version] = found.tolist()
        for old in sorted(self.figures)[1:-REMEMBERED]:  # the first stays: it is what a server was started with
            del self.figures[old]

    def judge(self, url: str, found: Sequence[float], version: int) -> str:
        """What is wrong with a server's figures after version `version` was handed over; empty where nothing is."""
        wanted = self.figures[version]
        gap = apart(found, wanted)
        if not gap <= self.bound(wanted):
            return f"it does not serve version {version}, {self._instead(found, gap)}"
        before, same = self.answered.get(url, (version, []))
        if before != version and list(found) == same and before in self.figures:
            moved = apart(self.figures[before], wanted)
            if moved > SEEN[self.dtype]:
                return (
                    f"it still serves version {before} and not version {version}: its log-probabilities of {NUM_SAID} "
                    f"probe tokens have not moved in a single digit, the trainer's by {moved:.2g}"
                )
        return ""

    def _instead(self, found: Sequence[float], gap: float) -> str:
        """Which version the figures are of."""
        near = {version: apart(found, known) for version, known in self.figures.items()}
        closest = min(near, key=lambda version: near[version])
        told = (
            f"its log-probabilities of {NUM_SAID} probe tokens are {gap:.3g} apart from the trainer's "
            f"(at most {self.bound(found):.2g})"
        )
        if near[closest] <= min(self.bound(self.figures[closest]), gap / 2):
            return f"it still serves version {closest}: {told}"
        return f"nor any other that this run has handed over: {told}"

    def bound(self, wanted: Sequence[float]) -> float:
        """The largest mean difference that rounding explains; see decode_probe.py."""
        return TOLERANCE[self.dtype] * max(1.0, fmean(map(abs, wanted)) / USUAL)


def score_drawn(policy: Policy, prompt: Sequence[int], drawn: Sequence[int], temperature: float) -> list[float]:
    """The trainer's log-probabilities of what a server has drawn behind a prompt."""
    ids = torch.tensor([*prompt, *drawn], device=policy.device)
    with torch.no_grad(), torch.autocast(policy.device.type, enabled=False):
        return trained_logps(policy, ids, num_prompt=len(prompt), temperature=temperature).tolist()


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean difference of two lists of log-probabilities."""
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))
