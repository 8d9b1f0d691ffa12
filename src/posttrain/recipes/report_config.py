"""The keys of `posttrain report`."""

from typing import ClassVar

from pydantic import Field

from posttrain.recipes.config import Config


class ReportConfig(Config):
    """The page of a run folder, written again."""

    verb: ClassVar[str] = "report"
    positional: ClassVar[str | None] = "run_dir"

    run_dir: str = Field(min_length=1, description="Run folder to read and to write report.html into.")
