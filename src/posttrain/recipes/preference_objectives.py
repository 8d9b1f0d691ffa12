"""From the keys of a preference recipe to the objective that the loop minimises."""

from collections.abc import Callable
from functools import partial
from typing import Any

from posttrain.losses.pairs import pair_loss
from posttrain.recipes.preference_config import (
    CpoConfig,
    DpoConfig,
    KtoConfig,
    OrpoConfig,
    PreferenceConfig,
    SimpoConfig,
)
from posttrain.train.objectives import Objective, kto_objective, pair_objective


def objective_of(config: PreferenceConfig) -> Objective:
    """The objective that a recipe describes."""
    return OBJECTIVES[config.verb](config)


def _dpo(config: DpoConfig) -> Objective:
    weights = config.loss_weights or [1.0] * len(config.loss_type)
    loss = partial(
        pair_loss,
        terms=tuple(zip(config.loss_type, weights, strict=True)),
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        f_divergence=config.f_divergence_type,
        alpha=config.f_alpha,
        ld_alpha=config.ld_alpha,
        wpo=config.use_weighting,
    )
    return pair_objective("dpo", loss, shift_beta=config.beta if "bco_pair" in config.loss_type else 0.0)


def _kto(config: KtoConfig) -> Objective:
    return kto_objective(
        beta=config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
        loss_type=config.loss_type,
    )


def _orpo(config: OrpoConfig) -> Objective:
    return pair_objective("orpo", partial(pair_loss, terms=(("orpo", 1.0),), beta=config.beta))


def _simpo(config: SimpoConfig) -> Objective:
    terms = [("alphapo" if config.alpha else "simpo", 1.0)] + [("sft", config.cpo_alpha)] * bool(config.cpo_alpha)
    loss = partial(
        pair_loss, terms=tuple(terms), beta=config.beta, gamma=config.simpo_gamma, alphapo_alpha=config.alpha
    )
    return pair_objective("simpo", loss)


def _cpo(config: CpoConfig) -> Objective:
    loss = partial(pair_loss, terms=(("cpo", 1.0),), beta=config.beta, nll_coef=config.cpo_alpha)
    return pair_objective("cpo", loss)


OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "dpo": _dpo,
    "kto": _kto,
    "orpo": _orpo,
    "simpo": _simpo,
    "cpo": _cpo,
}
