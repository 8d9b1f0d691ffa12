"""The shipped base model."""

from pathlib import Path


def base_folder() -> Path:
    """The folder of the pocket base, inside the package."""
    return Path(__file__).parent / "base"
