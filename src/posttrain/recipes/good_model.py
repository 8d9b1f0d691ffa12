"""The model that a folder of several names as its good one: of a pipeline the last that passed its gates, of a live
folder the version that takes the traffic."""

from pathlib import Path

from posttrain.errors import ConfigError

FILE = "good"
"""One line of text, the path of a model folder: no link, so it survives copies and archives."""


def good_model(name: str) -> str:
    """The model that a folder's `good` names; any other name as it is. ConfigError where the one named is gone."""
    file = Path(name) / FILE
    if not name or not file.is_file() or (Path(name) / "config.json").is_file():
        return name
    try:
        named = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); it should hold the path of a model folder.") from None
    # The whole folder may have been moved, or another one be the current folder: then the model is still inside it. And
    # what stands behind this folder's own name is inside it before anything else: elsewhere the same path may lead to
    # another project's model.
    parts, own = Path(named).parts, Path(name).resolve().name
    inside = [(part == own, Path(name).joinpath(*parts[at:])) for at, part in enumerate(parts[:-1], 1)]
    places = [place for is_own, place in inside if is_own]
    places += [Path(named), *(place for is_own, place in inside if not is_own)]
    found = next((place for place in places if named and _is_folder(place)), None)
    if found is None:
        raise ConfigError(f"{file} names {named!r}, where no model folder is; run the pipeline again, or name a model.")
    return str(found)


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # too long for a path
        return False
