"""The verbs that may be stages of a pipeline, and what they leave behind; their keys and recipes are those of VERBS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from posttrain.errors import ConfigError
from posttrain.recipes.config import Config, load
from posttrain.verbs import VERBS


@dataclass(frozen=True, slots=True)
class Verb:
    """`makes`: by the name behind the stage's (`{stage.name}`; `{stage}` has none) what stands at the stage's place,
    `output_dir/stage`, with this ending. `out`: the key that says where, and the ending that it wants. `trains`:
    whether later stages go on from its model. `anew`: the key that begins its output anew. `report`: the ending of the
    JSON file that gates read. `asked`: which of several models its gates are about. `gates`: the verb is handed the
    gates of its stage, as they are about figures that only it has."""

    config: str
    recipe: str
    makes: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    out: tuple[str, str] = ("output_dir", "")
    trains: bool = False
    anew: str = "overwrite_output_dir"
    report: str = "/run.json"
    asked: int = 0
    gates: bool = False

    def config_class(self) -> type[Config]:
        """The pydantic model of the keys; loads no torch."""
        found: type[Config] = resolve_name(self.config)
        return found

    def run(self, settings: Config) -> int:
        """Run the recipe; its exit code."""
        return int(resolve_name(self.recipe)(settings) or 0)


_TRAIN: dict[str, Any] = {"trains": True}
_KINDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("sft", "dpo", "kto", "orpo", "simpo", "cpo", "ppo", "grpo"), _TRAIN),
    "reward": {},
    "sample": {
        "makes": {"": ".jsonl", "conversations": ".conversations.jsonl", "preferences": ".preferences.jsonl"},
        "out": ("output", ".jsonl"),
        "anew": "overwrite",
    },
    "merge": {"trains": True, "report": "/merge.json"},
    "eval": {"makes": {"": "/eval.json"}, "report": "/eval.json"},
    "harness": {"makes": {"": "/eval.json"}, "anew": "", "report": "/eval.json"},
    "ledger": {"makes": {"": "/ledger.json"}, "report": "/ledger.json", "asked": -1},
    "redteam": {
        "makes": {"": "/pairs.jsonl", "pairs": "/pairs.jsonl", "sft": "/sft.jsonl", "attempts": "/attempts.jsonl"},
        "report": "/redteam.json",
    },
    "card": {"makes": {"": "/card.json", "page": "/card.html"}, "anew": "", "report": "/card.json", "gates": True},
    "annotate": {
        "recipe": "posttrain.recipes.pipeline_people:run",
        "makes": {"": ".db"},
        "out": ("store", ".db"),
        "anew": "",
        "report": "",
    },
    "judge": {
        "makes": {"": "/preferences.jsonl", "report": "/judge.json"},
        "anew": "",
        "report": "/judge.json",
    },
    "compare": {"makes": {"": "/compare.json"}, "anew": "", "report": "/compare.json"},
    "constitution": {
        "makes": {"": "", "sft": "/sft.jsonl", "pairs": "/pairs.jsonl", "preferences": "/preferences.jsonl"},
        "report": "/constitution.json",
    },
    "instruct": {"makes": {"": "/instructions.jsonl"}, "report": "/instruct.json"},
    "toolformer": {
        "makes": {"": "/train.jsonl", "unfiltered": "/unfiltered.jsonl", "heldout": "/heldout.jsonl"},
        "report": "/toolformer.json",
    },
    "promote": {"makes": {"": "/promoted.json"}, "anew": "", "report": "/promoted.json"},
    "pocket exam": {"makes": {"": ".json"}, "out": ("output_file", ".json"), "anew": "", "report": ".json"},
}
STAGES: dict[str, Verb] = {
    verb: Verb(**{"config": VERBS[verb][0], "recipe": VERBS[verb][1], **kind})
    for verb, kind in _KINDS.items()
    if verb in VERBS
}


def settings_of(name: str, verb: str, given: Mapping[str, Any], *, place: str, model: str) -> Config:
    """The checked settings of a stage. `place`: where it writes, unless it says so itself; `model`: what it starts from
    where its verb has such a key and it names none."""
    kind = STAGES[verb]
    fields = kind.config_class().model_fields
    key, ending = kind.out
    made: dict[str, Any] = {key: place + ending}
    if "model" in fields:
        made["model"] = [model] if "list" in str(fields["model"].annotation) else model
    if key in given:
        raise ConfigError(f"stage {name!r}: {key} is given; a stage writes to {place + ending}, leave it out.")
    try:
        return load(kind.config_class(), None, made | dict(given))
    except ConfigError as error:
        raise ConfigError(f"stage {name!r}: {error}") from None
