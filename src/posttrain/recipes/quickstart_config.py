"""The keys of `posttrain quickstart`."""

from typing import ClassVar

from pydantic import Field

from posttrain.recipes.config import Config


class QuickstartConfig(Config):
    """From the embedded base to an assistant, with an exam before and after."""

    verb: ClassVar[str] = "quickstart"

    output_dir: str = Field("runs/quickstart", min_length=1, description="Run folder: model, metrics, exam, report.")
    max_steps: int = Field(240, ge=1, description="Optimiser steps of fine-tuning.")
    learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate.")
    exam_items: int = Field(200, ge=1, description="Held-out questions asked before and after.")
    seed: int = Field(0, ge=0, description="Seed of the data's order and of the exam's choice of questions.")
