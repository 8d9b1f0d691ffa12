"""The keys of `posttrain dpo`, `kto`, `orpo`, `simpo` and `cpo`: names as in TRL."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.training_config import TrainingConfig

MEND = (
    "give `chosen` and `rejected` answers, several `responses` with `ranks` or `scores`, or say which field is which, "
    "e.g. columns: {chosen: YOUR_FIELD}"
)
CONTRASTS = {"sigmoid", "sigmoid_norm", "ipo", "ipo_norm", "hinge", "robust", "exo_pair", "discopop", "sft"}
"""Losses of the difference of two rewards, which any f-divergence may shape."""
TERMS = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "ipo_norm",
    "hinge",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]


class PreferenceConfig(TrainingConfig):
    """What every method has that learns from preferences without a reward model."""

    kind: ClassVar[str] = "pairs"
    needs_reference: ClassVar[bool] = True
    rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    progress: ClassVar[str] = "learning preferences"
    model_dropout: ClassVar[bool] = False
    beta: float
    mend: ClassVar[str] = MEND

    def rendering(self) -> dict[str, Any]:
        """How a row becomes samples (`data.rendering.Settings`)."""
        return super().rendering() | {"kind": self.kind}


class ReferencedConfig(PreferenceConfig):
    """What methods with a reference policy have."""

    reference_model: str | None = Field(
        None, description="Model that the policy is held to; left out, the policy as it was before training."
    )
    reference_cache: bool = Field(
        True, description="Keep the reference's log-probabilities on disk, to be found by the next run."
    )


class DpoConfig(ReferencedConfig):
    """Direct preference optimisation and its relatives."""

    verb: ClassVar[str] = "dpo"
    headings: ClassVar[dict[str, str]] = {**TrainingConfig.headings, "beta": "preferences"}

    output_dir: str = Field(
        "runs/dpo", min_length=1, description="Run folder: model, run.json, metrics, samples, report."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 1e-6, or 1e-5 with LoRA.")
    beta: float = Field(0.1, gt=0, description="Strength of the leash to the reference; IPO's tau.")
    loss_type: list[TERMS] = Field(default=["sigmoid"], description="One or several of the losses; repeatable.")
    loss_weights: list[float] = Field(
        default_factory=list, description="A weight for each loss_type; left out, 1 each."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of labels that are taken to be wrong (conservative DPO; robust, EXO)."
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js", "alpha"] = Field(
        "reverse_kl", description="Divergence that holds the policy to the reference."
    )
    f_alpha: float = Field(0.5, gt=0, lt=1, description="The alpha of f_divergence_type alpha.")
    ld_alpha: float = Field(
        1.0, ge=0, le=1, description="What tokens past the shorter answer's length count (LD-DPO); 1: as any other."
    )
    use_weighting: bool = Field(False, description="Weigh pairs by how likely the policy is to say them (WPO).")

    @field_validator("loss_type", "loss_weights", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`sigmoid,sft` says a list."""
        items = value if isinstance(value, list) else [value]
        parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
        return [part.strip() if isinstance(part, str) else part for part in parts]

    @model_validator(mode="after")
    def _terms(self) -> Self:
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights has {len(self.loss_weights)} numbers for {len(self.loss_type)} losses: give one each"
            )
        for name in ("robust", "exo_pair"):
            if name in self.loss_type and not self.label_smoothing:
                raise ValueError(f"loss_type {name} needs label_smoothing above 0, the share of labels that are wrong")
        if self.f_divergence_type != "reverse_kl" and (other := set(self.loss_type) - CONTRASTS):
            raise ValueError(
                f"f_divergence_type {self.f_divergence_type} goes with losses of a difference of rewards, and "
                f"{min(other)} is none: leave one of the two out"
            )
        return self


class KtoConfig(ReferencedConfig):
    """Kahneman-Tversky optimisation, from answers that are good or bad."""

    verb: ClassVar[str] = "kto"
    kind: ClassVar[str] = "ratings"
    headings: ClassVar[dict[str, str]] = {**TrainingConfig.headings, "beta": "preferences"}

    output_dir: str = Field(
        "runs/kto", min_length=1, description="Run folder: model, run.json, metrics, samples, report."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 1e-6, or 1e-5 with LoRA.")
    beta: float = Field(0.1, gt=0, description="Strength of the leash to the reference.")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field("kto", description="KTO, or APO-zero without a baseline.")
    mend: ClassVar[str] = "give answers with a label, true or false, or pairs (`chosen`, `rejected`) to be taken apart"
    desirable_weight: float = Field(1.0, gt=0, description="Weight of good answers.")
    undesirable_weight: float = Field(1.0, gt=0, description="Weight of bad answers.")


class OrpoConfig(PreferenceConfig):
    """Odds-ratio preference optimisation: fine-tuning and preferences at once, without a reference."""

    verb: ClassVar[str] = "orpo"
    needs_reference: ClassVar[bool] = False
    rates: ClassVar[tuple[float, float]] = (8e-6, 8e-5)
    headings: ClassVar[dict[str, str]] = {**TrainingConfig.headings, "beta": "preferences"}

    output_dir: str = Field(
        "runs/orpo", min_length=1, description="Run folder: model, run.json, metrics, samples, report."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 8e-6, or 8e-5 with LoRA.")
    beta: float = Field(0.1, gt=0, description="Weight of the odds ratio beside the fine-tuning term (lambda).")


class SimpoConfig(PreferenceConfig):
    """Simple preference optimisation: length-normalised rewards with a margin, without a reference."""

    verb: ClassVar[str] = "simpo"
    needs_reference: ClassVar[bool] = False
    headings: ClassVar[dict[str, str]] = {**TrainingConfig.headings, "beta": "preferences"}

    output_dir: str = Field(
        "runs/simpo", min_length=1, description="Run folder: model, run.json, metrics, samples, report."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 1e-6, or 1e-5 with LoRA.")
    beta: float = Field(2.0, gt=0, description="Scale of the length-normalised reward.")
    simpo_gamma: float = Field(1.0, ge=0, description="Margin that the chosen answer's reward should keep.")
    cpo_alpha: float = Field(0.0, ge=0, description="Weight of a fine-tuning term on chosen answers.")
    alpha: float = Field(0.0, ge=0, description="Shape of the reward (AlphaPO); 0 is SimPO's logarithm.")


class CpoConfig(PreferenceConfig):
    """Contrastive preference optimisation: DPO without a reference, and a fine-tuning term on chosen answers."""

    verb: ClassVar[str] = "cpo"
    needs_reference: ClassVar[bool] = False
    headings: ClassVar[dict[str, str]] = {**TrainingConfig.headings, "beta": "preferences"}

    output_dir: str = Field(
        "runs/cpo", min_length=1, description="Run folder: model, run.json, metrics, samples, report."
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 1e-6, or 1e-5 with LoRA.")
    beta: float = Field(0.1, gt=0, description="Scale of the rewards.")
    cpo_alpha: float = Field(1.0, ge=0, description="Weight of the fine-tuning term on chosen answers.")
