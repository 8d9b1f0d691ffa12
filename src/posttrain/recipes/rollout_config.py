"""The keys that `posttrain grpo` and `posttrain ppo` share: prompts, rewards, rollouts, steps."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.recipes.dataset_config import DatasetEntry, as_entries
from posttrain.recipes.distributed_config import DistributedKeys
from posttrain.recipes.protect_config import ProtectKeys
from posttrain.recipes.rollout_vllm_config import SamplingServerKeys
from posttrain.recipes.tools_config import ToolKeys
from posttrain.recipes.training_config import LoraKeys, ModelKeys, OptimKeys, OutputKeys


class PromptKeys(ModelKeys):
    """What is asked, and how an answer is graded."""

    dataset: list[DatasetEntry] = Field(
        description="Where prompts come from, repeatable: a file, a folder, a Hugging Face name, or `pocket`."
    )
    max_samples: int | None = Field(None, ge=1, description="Use at most this many prompts.")
    max_prompt_length: int = Field(512, ge=1, description="Longer prompts, in tokens, are left out and counted.")
    reward: list[str] = Field(
        default_factory=list,
        description="What grades answers, repeatable: numeric, format, my.py:score ... with =WEIGHT behind it.",
    )
    environment: str | None = Field(
        None, min_length=1, description="Several turns: retry, or a class of yours as my.py:Class."
    )
    max_turns: int = Field(8, ge=1, description="Turns of the policy in one episode at most.")
    check_gold: bool = Field(
        False, description="Refuse to start unless every prompt's own answer earns the full reward."
    )


class RolloutKeys(ToolKeys, PromptKeys):
    """How the policy answers."""

    num_prompts: int = Field(16, ge=1, description="Prompts answered in one iteration.")
    num_generations: int = Field(8, ge=1, description="Answers to each prompt: the size of a group.")
    max_completion_length: int = Field(256, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(1.0, gt=0, description="Randomness of answers; they are trained at the same.")
    stop_strings: list[str] = Field(default_factory=list, description="Text that ends an answer too; repeatable.")
    sampler_slots: int = Field(64, ge=1, description="Answers written at the same time.")
    sampler_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the sampler's weights; auto: bfloat16 where training computes in it."
    )


class IterationKeys(RolloutKeys):
    """How rollouts become optimiser steps."""

    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the prompts.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimiser steps; -1 goes by epochs.")
    num_mini_batches: int = Field(1, ge=1, description="Optimiser steps that one pass over the rollouts is cut into.")
    micro_batch_tokens: int = Field(
        8192, ge=64, description="Positions in one forward pass at most; bounds memory, never changes the step."
    )
    seed: int = Field(0, ge=0, description="Seed of prompts' order, sampling and adapter weights.")


class RolloutConfig(OutputKeys, DistributedKeys, ProtectKeys, LoraKeys, OptimKeys, SamplingServerKeys, IterationKeys):
    """What reinforcement learning from rollouts needs, whatever its loss."""

    model_dropout: ClassVar[bool] = False
    rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)
    progress: ClassVar[str] = "reinforcement learning"
    load_best_model_at_end: ClassVar[bool] = False
    early_stopping_patience: ClassVar[int] = 0
    headings: ClassVar[dict[str, str]] = {
        "model": "model",
        "dataset": "prompts and rewards",
        "tools": "tools",
        "num_prompts": "rollouts",
        "sampler": "sampling on servers",
        "num_train_epochs": "training",
        "learning_rate": "optimisation",
        "use_peft": "LoRA",
        "protect": "against forgetting",
        "launcher": "more than one process",
        "output_dir": "output",
    }

    learning_rate: float | None = Field(None, gt=0, description="Peak rate; left out, 1e-6, or 1e-5 with LoRA.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        "constant", description="Shape of the learning rate after its warm-up."
    )
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="Share of all steps spent rising to the peak rate.")
    logging_steps: int = Field(1, ge=1, description="Write a line of metrics every so many steps.")

    eval_dataset: list[DatasetEntry] = Field(
        default_factory=list, description="Prompts to measure on before, while and after, named as in dataset."
    )
    eval_steps: int = Field(0, ge=0, description="Measure on eval_dataset every so many steps; 0: at start and end.")
    max_eval_samples: int = Field(200, ge=1, description="Prompts of eval_dataset to measure on.")
    gold_reward: list[str] = Field(
        default_factory=list,
        description="Rewards measured on eval_dataset and never trained on, named as in reward: what it should mean.",
    )
    sample_steps: int = Field(10, ge=1, description="Write rollouts to samples.jsonl every so many steps.")

    allow_truncated: bool = Field(
        False, description="Go on though every answer is cut off: for text that is to be continued, not ended."
    )
    max_mismatch: float | None = Field(
        None, gt=0, description="Stop at this KL of sampler and trainer, nats a token; 0.001, or 0.05 in bfloat16."
    )
    min_entropy: float = Field(
        0.0, ge=0, lt=1, description="Stop where the entropy stays under this share of its start; 0 never stops."
    )
    max_kl: float = Field(0.0, ge=0, description="Stop where the KL from the reference (nats an answer) is over this.")

    stop_at_peak_of: str | None = Field(
        None, min_length=1, description="Stop once this reward's peak over sqrt(KL), fitted as it goes, has passed."
    )

    @property
    def num_updates(self) -> int:
        """Passes over the rollouts of one iteration."""
        raise NotImplementedError

    @property
    def part_rates(self) -> dict[str, float]:
        """What multiplies the learning rate of a model that is trained beside the policy, by its name."""
        return {}

    @field_validator("dataset", "eval_dataset", "replay_dataset", "protect_dataset", mode="before", check_fields=False)
    @classmethod
    def _entries(cls, value: object) -> object:
        return as_entries(value)

    @field_validator("reward", "gold_reward", "stop_strings", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        if not self.dataset:
            raise ValueError("dataset is empty: name a file, a folder or `pocket`")
        if self.max_steps == 0:
            raise ValueError("max_steps is 0, which trains nothing: use -1 to go by epochs, or a number above 0")
        if self.num_mini_batches > self.num_prompts:
            raise ValueError(f"num_mini_batches {self.num_mini_batches} is over num_prompts {self.num_prompts}")
        if self.lora_dropout:
            raise ValueError("lora_dropout has to be 0: the sampler has none, and the two must be one distribution")
        if self.environment is None and "max_turns" in self.model_fields_set:
            raise ValueError("max_turns needs an environment: without one every episode has one answer")
        if getattr(self, "target_kl", None) and self.num_updates * self.num_mini_batches == 1:
            raise ValueError("target_kl ends an iteration early, and this one has a single step: leave it out")
        self.agree_on_staleness(self.num_updates * self.num_mini_batches)
        if self.gold_reward and not self.eval_dataset:
            raise ValueError("gold_reward needs eval_dataset: name the prompts to measure on")
        if self.eval_steps and not self.eval_dataset:
            raise ValueError("eval_steps needs eval_dataset: name the prompts to measure on")
        return self
