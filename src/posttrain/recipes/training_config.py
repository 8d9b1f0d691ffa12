"""The keys that every training verb has: names as in Hugging Face's TrainingArguments, PEFT and TRL, one line of help
each."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.config import Config
from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.distributed_config import DistributedKeys
from posttrain.recipes.protect_config import ProtectKeys


class ModelKeys(Config):
    """Which model is trained, and how it computes."""

    model: str = Field("pocket", description="Model folder or Hugging Face name; `pocket` is the embedded base.")
    chat_template: str | None = Field(
        None, description="Template for turns: a shipped name, a Jinja file, or `raw` for none; left out, its own."
    )
    bf16: bool | None = Field(
        None, description="Compute in bfloat16 by autocast; left out, on where the hardware has it."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations to save memory, at the cost of time."
    )
    attn: Literal["auto", "segments", "flex"] = Field(
        "auto", description="Attention in packed rows: by segment, or FlexAttention on CUDA."
    )


class DataKeys(Config):
    """What is read, and how it becomes rows."""

    dataset: list[DatasetEntry] = Field(
        description="File, folder, glob or Hugging Face name, repeatable; `pocket` is the embedded data."
    )
    eval_dataset: list[DatasetEntry] = Field(
        default_factory=list, description="Data to measure held-out loss on, named as in dataset."
    )
    eval_split: float = Field(
        0.0, ge=0, lt=1, description="Share to hold out where there is no eval_dataset; a prompt is on one side only."
    )
    mixing_temperature: float = Field(
        1.0, ge=1, description="Above 1, small entries of dataset are met more often than their size says."
    )
    mixing_cap: int | None = Field(
        None, ge=1, description="Entries larger than this count as if they had so many samples."
    )
    max_length: int = Field(1024, ge=2, description="Longest sample in tokens, and the length of a packed row.")
    packing: bool = Field(True, description="Put several samples in one row; none of them sees another.")
    truncation: Literal["keep_start", "drop"] = Field(
        "keep_start", description="What becomes of a sample that is longer than max_length."
    )
    max_samples: int | None = Field(None, ge=1, description="Use at most this many samples.")
    on_bad_rows: Literal["error", "skip"] = Field(
        "error", description="Stop at a row that cannot be read, or leave it out, counted and listed."
    )
    data_checks: Literal["refuse", "warn", "off"] = Field(
        "refuse", description="What the checks of the data may do before the first step."
    )
    dataset_num_proc: int | None = Field(
        None, ge=0, description="Processes that read and tokenise; left out, by the size of the data."
    )


class StepKeys(Config):
    """How long to train, in which batches."""

    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimiser steps; -1 goes by epochs.")
    per_device_train_batch_size: int = Field(
        1, ge=1, description="Packed rows a micro-batch, or samples where packing is off."
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Micro-batches in one optimiser step.")
    seed: int = Field(0, ge=0, description="Seed of shuffling, dropout and adapter weights.")


class OptimKeys(Config):
    """The optimiser and its learning rate. `rates`: the rate where none is given, full and LoRA."""

    rates: ClassVar[tuple[float, float]]

    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, by the verb and use_peft.")
    optim: Literal["adamw_torch_fused", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"] = Field(
        "adamw_torch_fused", description="AdamW, or with moments in 8 bits, or paged out of a GPU (bitsandbytes)."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay of weight matrices (AdamW).")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's mean of gradients.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of AdamW's mean of squared gradients.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Term that keeps AdamW's division finite.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the gradient to this norm; 0 never clips.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape of the learning rate after its warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="Share of all steps spent rising to the peak rate.")
    warmup_steps: int = Field(
        0, ge=0, description="Steps spent rising to the peak rate; above 0 it replaces warmup_ratio."
    )
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Where the schedule ends, as a share of the peak rate.")

    @property
    def peak_rate(self) -> float:
        """The learning rate, as it was given or as the verb sets it."""
        rate = self.learning_rate or self.rates[bool(getattr(self, "use_peft", False))]
        return rate * float(getattr(self, "rate_factor", 1.0))


class LoraKeys(Config):
    """A low-rank adapter in place of the weights."""

    use_peft: bool = Field(False, description="Train a LoRA adapter and leave the model's weights alone.")
    lora_r: int = Field(16, ge=1, description="Rank of the adapter.")
    lora_alpha: int = Field(
        32, ge=1, description="Scale of the adapter: alpha / r, or alpha / sqrt(r) with use_rslora."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter.")
    lora_target_modules: str | list[str] = Field(
        "all-linear", description="Layers that get an adapter: names with commas between."
    )
    use_rslora: bool = Field(False, description="Rank-stabilised scale (rsLoRA).")
    use_dora: bool = Field(False, description="Weight-decomposed adapter (DoRA).")
    load_in_4bit: bool = Field(False, description="Hold the base in four bits under the adapter (QLoRA).")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="The sixteen levels of four bits.")
    bnb_4bit_use_double_quant: bool = Field(True, description="Hold the scales of four bits in eight bits.")

    @field_validator("lora_target_modules", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """`q_proj,v_proj` says a list, in a flag as in a file."""
        return _split_commas([value] if isinstance(value, str) and "," in value else value)

    @model_validator(mode="after")
    def _need_adapter(self) -> Self:
        for key in ("use_rslora", "use_dora", "load_in_4bit"):
            if getattr(self, key) and not self.use_peft:
                raise ValueError(f"{key} needs use_peft, which is off: no adapter is trained without it")
        for key in ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
            if not self.load_in_4bit and getattr(self, key) != LoraKeys.model_fields[key].default:
                raise ValueError(f"{key} needs load_in_4bit, which is off: nothing is held in four bits without it")
        if self.load_in_4bit and "ewc" in getattr(self, "protection", {}):
            raise ValueError("protect ewc needs the gradient of the base, which load_in_4bit has not: keep one")
        return self


class EvalKeys(Config):
    """What is measured while it trains."""

    eval_steps: int = Field(0, ge=0, description="Measure held-out loss every so many steps; 0 only at start and end.")
    load_best_model_at_end: bool = Field(False, description="Keep the weights with the lowest held-out loss.")
    early_stopping_patience: int = Field(
        0, ge=0, description="Stop after so many evaluations without a new best; 0 never stops."
    )


class OutputKeys(Config):
    """What is written."""

    output_dir: str = Field(min_length=1, description="Run folder: model, run.json, metrics, samples, report.")
    overwrite_output_dir: bool = Field(False, description="Replace what an earlier run left in output_dir.")
    resume_from_checkpoint: bool = Field(False, description="Go on from the newest checkpoint in output_dir.")
    logging_steps: int = Field(10, ge=1, description="Write a line of metrics every so many steps.")
    save_steps: int = Field(100, ge=0, description="Write a checkpoint every so many steps; 0 only at the end.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints to keep; the oldest goes first.")
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        default_factory=list, description="Also send metrics to tensorboard, trackio or wandb; repeatable."
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _trackers(cls, value: object) -> object:
        return _split_commas([value] if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _keep_or_delete(self) -> Self:
        if self.resume_from_checkpoint and self.overwrite_output_dir:
            raise ValueError(
                "resume_from_checkpoint is given beside overwrite_output_dir: one keeps what the other deletes"
            )
        return self


class TrainingConfig(
    OutputKeys, DistributedKeys, EvalKeys, ProtectKeys, LoraKeys, OptimKeys, StepKeys, DataKeys, ModelKeys
):
    """What a verb needs to train a model on data."""

    progress: ClassVar[str] = "fine-tuning"
    """What the progress bar calls it."""
    model_dropout: ClassVar[bool] = True
    """Whether the model's own dropout stays; off where an answer's log-probability is compared with the reference's."""
    mend: ClassVar[str] = "say which field holds the answers, e.g. columns: {completion: YOUR_FIELD}"
    """What to do where no row can be trained on."""
    headings: ClassVar[dict[str, str]] = {
        "model": "model",
        "dataset": "data",
        "num_train_epochs": "training",
        "learning_rate": "optimisation",
        "use_peft": "LoRA",
        "protect": "against forgetting",
        "eval_steps": "evaluation",
        "launcher": "more than one process",
        "output_dir": "output",
    }

    num_preview_samples: int = Field(3, ge=0, description="Prompts answered before and after, for the report.")

    @property
    def replay(self) -> list[DatasetEntry]:
        """Text of the kind the base was trained on, to be mixed in."""
        return []

    def rendering(self) -> dict[str, Any]:
        """How a row becomes samples (`data.rendering.Settings`)."""
        return {"max_length": self.max_length, "truncation": self.truncation, "on_bad_rows": self.on_bad_rows}

    @field_validator("dataset", "eval_dataset", "replay_dataset", "protect_dataset", mode="before", check_fields=False)
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Keys that would be ignored in silence because another key is off."""
        if not self.dataset:
            raise ValueError("dataset is empty: name a file, a folder or `pocket`")
        if self.max_steps == 0:
            raise ValueError("max_steps is 0, which trains nothing: use -1 to go by epochs, or a number above 0")
        if self.eval_dataset and self.eval_split:
            raise ValueError("eval_split is given beside eval_dataset: keep one, both say what is held out")
        held_out = bool(self.eval_dataset or self.eval_split)
        for key in ("eval_steps", "load_best_model_at_end", "early_stopping_patience"):
            if getattr(self, key) and not held_out:
                raise ValueError(f"{key} needs held-out data: give eval_dataset or eval_split")
        if self.early_stopping_patience and not self.eval_steps:
            raise ValueError("early_stopping_patience needs eval_steps above 0, or nothing is measured before the end")
        return self


def _split_commas(value: object) -> object:
    if not isinstance(value, list):
        return value
    parts = [part for item in value for part in (item.split(",") if isinstance(item, str) else [item])]
    return [part.strip() if isinstance(part, str) else part for part in parts]
