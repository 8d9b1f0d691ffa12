"""`protect:` of a recipe to what holds a run: what stays as it is, what is added to the objective, what is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.models.freezing import freeze_lowest, layers_of
from posttrain.models.load import Policy, load_tokenizer
from posttrain.models.reference import Reference
from posttrain.models.shifts import Shift, shifts_of
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.protect_stream import TextBatches
from posttrain.train import distributed
from posttrain.train.fisher import FILE, dump_fisher, fisher_diagonal, keep_fisher, read_fisher
from posttrain.train.objectives import Objective
from posttrain.train.protection import Hold, Penalties, WithText, protected
from posttrain.train.runlog import RunFolder

Say = Callable[[str], None]
FISHER_ROWS = 64
"""Rows of text that the Fisher information is a mean over: the noise of an entry is then a sixth of it."""


@dataclass
class Protected:
    """An objective and the steps that it is minimised over, held to the start. `inputs`: what a resumed run must find
    the same; `fisher`: the file that belongs into the run folder."""

    objective: Objective
    stream: Any
    inputs: list[dict[str, Any]] = field(default_factory=list)
    fisher: bytes | None = None
    reference: Reference | None = None

    def keep(self, folder: RunFolder) -> None:
        """Write what is kept; to be called once the run folder is this run's own."""
        if self.fisher is not None and distributed.is_main():
            keep_fisher(folder.path / FILE, self.fisher)


def protect(
    config: Any,
    policy: Policy,
    objective: Objective,
    stream: Any,
    folder: RunFolder,
    say: Say,
    *,
    bf16: bool = False,
    reference: Reference | None = None,
) -> Protected:
    """Hold a policy, as it stands before the first step, by the means that the recipe names. `reference`: the policy
    as it stands now, where there is one already."""
    means: dict[str, float | None] = config.protection
    held = Protected(objective, stream)
    if not means:
        return held
    if "freeze" in means:
        _freeze(config, policy, means["freeze"], say)
    coefs = {name: means.get(name) or 0.0 for name in ("kl", "distill", "l2_sp", "ewc")}
    if "replay" in means and config.replay_key is None:
        coefs["replay"] = means["replay"] or 1.0
    text = TextBatches(config, policy, say) if {"distill", "ewc"} & set(means) or "replay" in coefs else None
    if text is not None:
        held.inputs += text.inputs
        if coefs["distill"] or coefs.get("replay"):
            held.stream = WithText(stream, text.batch)
    if coefs["kl"] or coefs["distill"]:
        reference = reference or Reference(policy)
    held.reference = reference
    penalties = None
    if coefs["l2_sp"] or coefs["ewc"]:
        is_copy = reference is not None and not reference.is_policy
        shifts = shifts_of(policy.model, reference.model if reference is not None and is_copy else None)
        fisher = (
            {} if text is None or not coefs["ewc"] else _fisher(config, policy, shifts, text, folder, held, bf16, say)
        )
        penalties = Penalties(shifts, coefs["l2_sp"], coefs["ewc"], fisher)
    hold = Hold(coefs["kl"], coefs["distill"], coefs.get("replay", 0.0), reference, penalties)
    held.objective = protected(objective, hold)
    return held


def _fisher(
    config: Any,
    policy: Policy,
    shifts: Sequence[Shift],
    text: TextBatches,
    folder: RunFolder,
    held: Protected,
    bf16: bool,
    say: Say,
) -> Mapping[str, Tensor]:
    """The Fisher information of all that is trained, measured once; a resumed run reads what the first one measured.
    Of several processes one measures for all: another device may round the last digit the other way."""
    homes = {shift.name: shift.home for shift in shifts if shift.home is not None}
    path = folder.path / FILE

    def found() -> Mapping[str, Tensor]:
        if config.resume_from_checkpoint and path.exists():
            return read_fisher(path, homes)
        say("measuring the Fisher information of the base on its own text")
        return fisher_diagonal(policy, homes, text.rows(FISHER_ROWS), seed=config.seed, bf16=bf16)

    measured = distributed.by_main(found)
    fisher = {}
    for name, home in homes.items():
        own = torch.empty(0) if measured is None else measured[name].cpu()
        fisher[name] = distributed.from_main(own).to(home.device)
    held.fisher, digest = dump_fisher(fisher)
    held.inputs.append({"path": FILE, "sha256": digest})
    return fisher


def _freeze(config: Any, policy: Policy, count: float | None, say: Say) -> None:
    layers = len(layers_of(policy.model))
    known = len(load_tokenizer(resolve_model(config.model)))
    num = layers // 2 if count is None else int(count)
    if num > layers:
        raise ConfigError(f"protect freeze={num}: {policy.name} has {layers} layers; give at most so many.")
    has_new = known < len(policy.tokenizer)
    if config.weight_decay and has_new:
        raise ConfigError(
            "protect freeze trains the rows of new tokens within a frozen table, which weight_decay would shrink as a "
            "whole: set weight_decay 0."
        )
    frozen = freeze_lowest(policy.model, num, num_known_tokens=known if has_new else None)
    whole = policy.num_parameters
    say(f"frozen: embeddings and the lowest {num} of {layers} layers, {frozen:,} of {whole:,} parameters")
