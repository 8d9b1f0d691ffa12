"""The keys of `posttrain run`: a recipe of several stages."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from posttrain.recipes.config import Config


class PipelineConfig(Config):
    """Stages that follow one another, each training the model that the one before made."""

    verb: ClassVar[str] = "run"

    stages: list[dict[str, Any]] = Field(
        description="In a recipe file: a mapping each, with `verb`, `name` and the keys of that verb."
    )
    model: str = Field("pocket", description="Model that the first stage begins with.")
    output_dir: str = Field("runs/pipeline", min_length=1, description="Folder that gets a run folder for each stage.")
    overwrite_output_dir: bool = Field(False, description="Do finished stages again instead of passing over them.")

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [str(stage.get("name", "")) for stage in self.stages]
        if not names or not all(names):
            raise ValueError("stages need a name each, which becomes the folder of the stage")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"stages has two stages of the name {twice!r}: each needs a folder of its own")
        return self
