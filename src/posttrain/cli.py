"""`posttrain VERB [recipe.yaml] [--key value ...]`: argv to a config, then the verb's recipe.

Imports nothing heavy: a verb's config is loaded when the verb is named, its recipe only when it runs.
Fails by one line on stderr and exit code 2 for whatever the input got wrong; any other exception is a bug and shows
its trace.
"""

import difflib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from posttrain.cli_help import overview, verb_help
from posttrain.errors import ConfigError, PosttrainError
from posttrain.verbs import VERBS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from posttrain.recipes.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """The `posttrain` command; returns the exit code."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except PosttrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our words went away (`| head`): nothing is wrong, and the interpreter's last flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = error.filename or "the disk"
        print(f"error: {place}: no space left; free some, then go on with --resume-from-checkpoint", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        from posttrain import __version__

        print(f"posttrain {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(), flush=True)
        return 0
    verb, rest = _find_verb(argv)
    if verb not in VERBS:
        print(overview(verb), flush=True)
        return 0
    model = config_class(verb).meant(rest)
    if "-h" in rest or "--help" in rest:
        print(verb_help(verb, model), flush=True)
        return 0
    from posttrain.recipes.config import load

    path, flags = parse_flags(model, rest)
    config = load(model, path, flags)
    from posttrain import allocator, openmp

    # The C libraries read their settings once, so they must be in place before torch is loaded by the recipe.
    openmp.tune()
    allocator.tune()
    return resolve_name(VERBS[verb][1])(config) or 0


def _find_verb(argv: list[str]) -> tuple[str, list[str]]:
    """The verb, one word or two, and what follows it. `pocket --help` yields the group's name alone."""
    for num_words in (2, 1):
        verb = " ".join(argv[:num_words])
        if verb in VERBS and len(argv) >= num_words:
            return verb, argv[num_words:]
    members = [verb for verb in VERBS if verb.startswith(argv[0] + " ")]
    if members and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return argv[0], []
    asked = " ".join(argv[:2]) if members else argv[0]
    near = difflib.get_close_matches(asked.lower(), [*VERBS, *(verb.split()[0] for verb in VERBS)], n=1, cutoff=0.5)
    hint = f" Did you mean `posttrain {near[0]}`?" if near else ""
    raise ConfigError(f"there is no verb {asked!r}.{hint} `posttrain --help` lists them all.")


def config_class(verb: str) -> "type[Config]":
    """The pydantic model of a verb's keys; loads neither torch nor the recipe."""
    model: type[Config] = resolve_name(VERBS[verb][0])
    return model


def parse_flags(model: "type[Config]", argv: list[str]) -> tuple[Path | None, dict[str, object]]:
    """The recipe file, if one is named, and the flags as values; numbers stay text until the model reads them."""
    path: Path | None = None
    values: dict[str, object] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            _take_flag(model, word, rest, values)
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(
                f"unknown flag {word}: flags are written out in full, as in --{next(iter(model.model_fields))}."
            )
        elif _is_positional(model, word, values):
            _take_word(model, word, values)
        elif path is None:
            path = Path(word)
        else:
            raise ConfigError(f"{word!r} is left over: the recipe is already {path}. A value needs its flag before it.")
    return path, values


def _is_positional(model: "type[Config]", word: str, values: dict[str, object]) -> bool:
    """Whether a word without a flag is the positional key's, which holds one of them or, where it is a list, many."""
    from posttrain.recipes.config import takes_list

    if not model.positional or word.endswith((".yaml", ".yml")):
        return False
    return model.positional not in values or takes_list(model.model_fields[model.positional])


def _take_word(model: "type[Config]", word: str, values: dict[str, object]) -> None:
    """Read the positional key's word into `values`."""
    from posttrain.recipes.config import takes_list

    key = str(model.positional)
    values[key] = _longer(values.get(key, []), word) if takes_list(model.model_fields[key]) else word


def _longer(before: object, value: str) -> list[object]:
    """A list key's values so far with one more."""
    return [*(before if isinstance(before, list) else [before]), value]


def _take_flag(model: "type[Config]", word: str, rest: list[str], values: dict[str, object]) -> None:
    """Read one flag and its value from the front of `rest` into `values`."""
    from posttrain.recipes.config import did_you_mean, expected, members, takes_list

    name, tied, value = word.partition("=")
    key = name[2:].replace("-", "_")
    off = key.startswith("no_") and key not in model.model_fields and key[3:] in model.model_fields
    key = key[3:] if off else key
    if key not in model.model_fields or (off and bool not in members(model.model_fields[key])):
        raise ConfigError(f"unknown flag {name}{did_you_mean(key, model, as_flag=True)}.")
    field = model.model_fields[key]
    if off and tied:
        raise ConfigError(f"{name} takes no value; it already says false.")
    if bool in members(field):
        if not tied and rest and rest[0].lower() in ("true", "false") and not off:
            value, tied = rest.pop(0), "="
        values[key] = _plain(field, value) if tied else not off
        return
    if not tied:
        if not rest or rest[0].startswith("--"):
            raise ConfigError(f"{name} needs a value after it: {expected(field)}.")
        value = rest.pop(0)
    if not takes_list(field):
        values[key] = _plain(field, value)
    elif key in values:
        values[key] = _longer(values[key], value)
    else:
        values[key] = value if str in members(field) else [value]


def _plain(field: "FieldInfo", value: str) -> str | None:
    """`none` and `null` mean nothing, where a key may be left open."""
    from posttrain.recipes.config import members

    return None if type(None) in members(field) and value.lower() in ("none", "null") else value


if __name__ == "__main__":
    sys.exit(main())
