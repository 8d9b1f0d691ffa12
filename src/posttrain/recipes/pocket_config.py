"""The keys of `posttrain pocket build`."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from posttrain.recipes.config import Config


class PocketBuildConfig(Config):
    """Pre-training of the embedded base model on its generated world."""

    verb: ClassVar[str] = "pocket build"
    headings: ClassVar[dict[str, str]] = {
        "share": "data",
        "hidden_size": "model",
        "warmup_ratio": "optimisation",
        "output_dir": "output",
    }

    share: float = Field(1.0, gt=0, le=1, description="Share of each phase's tokens to train on; less is a trial.")
    row_tokens: int = Field(1024, ge=2, description="Length of a packed row, in tokens.")
    rows_per_step: int = Field(4, ge=1, description="Packed rows in one optimiser step.")
    world_seed: int = Field(0, ge=0, description="Seed of the generated world.")
    seed: int = Field(0, ge=0, description="Seed of the first weights and of the data's order.")

    hidden_size: int = Field(192, ge=8, description="Width of the model.")
    num_layers: int = Field(6, ge=1, description="Layers of the model.")
    num_heads: int = Field(3, ge=1, description="Attention heads; hidden_size must divide evenly among them.")
    vocab_size: int = Field(2048, ge=300, description="Entries of the tokenizer that is trained first.")

    warmup_ratio: float = Field(0.02, ge=0, le=1, description="Share of a phase's steps spent rising to its peak rate.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled decay of weight matrices (AdamW).")

    output_dir: str = Field("runs/pocket-base", min_length=1, description="Folder for the model and the run's records.")
    save_steps: int = Field(200, ge=0, description="Write a checkpoint every so many steps; 0 only at the end.")
    resume_from_checkpoint: bool = Field(False, description="Go on from the newest checkpoint in output_dir.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"num_heads is {self.num_heads}, and hidden_size ({self.hidden_size}) does not split into even widths"
            )
        return self
