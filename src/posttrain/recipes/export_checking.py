"""The check of exports: what the model in fp32 says is asked once, then every written file is laid beside it."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.evals.export_check import Truth, compare, faults_of, truth_of
from posttrain.evals.export_contents import added_texts, contents, contents_faults
from posttrain.evals.export_reader import PolicyReader, Reader
from posttrain.evals.forward_kl import answers_of_base
from posttrain.evals.marks import Mark
from posttrain.evals.paired import paired_difference
from posttrain.evals.taking import Taker
from posttrain.evals.task import Taken
from posttrain.models.gguf_splits import comparable_texts
from posttrain.models.llama_cpp import LlamaCppReader, why_not
from posttrain.models.load import Policy
from posttrain.recipes.eval_taking import take_tasks
from posttrain.recipes.export_prompts import asks_of
from posttrain.recipes.export_sources import ExportSource
from posttrain.recipes.export_suites import drops, tasks_of
from posttrain.recipes.export_types import Budget, Format, Readback
from posttrain.recipes.suite_kept import Files, Kept, model_digest
from posttrain.rollouts.text_ids import plain_text

NUM_TEXTS = 300
"""Probe texts on which whole tokenizers are compared, beside the prompts."""


class Checker:
    """The model in fp32 as the yardstick of its exports."""

    def __init__(self, source: ExportSource, console: Console) -> None:
        self.source, self.config, self.console = source, source.config, console
        self.say = partial(console.print, markup=False)
        self.reader = PolicyReader("fp32", source.policy, source.stop_ids, slots=self.config.sampler_slots)
        self.files = Files(Path(self.config.output_dir), anew=self.config.overwrite_output_dir)
        self.tasks = tasks_of(self.config, source.policy)
        self.truth = self._truth()
        identity = {"name": "fp32", **model_digest(source.folder)} | ({"base": "held"} if source.is_held else {})
        self.before = self._taken(source.policy, identity)

    def _truth(self) -> Truth:
        config, policy = self.config, self.source.policy
        asks = asks_of(config, self.reader, self.say)
        answered = answers_of_base(
            policy, asks, max_new_tokens=config.max_new_tokens, seed=config.seed, slots=config.sampler_slots
        )
        texts = [*comparable_texts(policy.tokenizer.backend_tokenizer, NUM_TEXTS), *added_texts(policy.tokenizer)]
        return truth_of(self.reader, asks, answered, texts, policy.tokenizer, config.max_new_tokens)

    def _taken(self, policy: Policy, identity: Mapping[str, str]) -> dict[str, Taken]:
        if not self.tasks:
            return {}
        kept = Kept(self.files, identity)
        taker = Taker(lambda: policy, keep=kept, slots=self.config.sampler_slots)
        return {t.task.name: t for t in take_tasks(taker, kept, self.tasks, identity["name"], self.console)}

    def check(self, name: str, chosen: Format, place: Path) -> dict[str, Any]:
        """Everything about one written file, `faults` among it: why it may not be used, empty where it may."""
        budget, digest = self.budget(chosen), digest_of(place)
        row: dict[str, Any] = {"format": name, "digest": digest, "budget": vars(budget), "llama_cpp": ""}
        try:
            back = chosen.read(place)
            readers: list[Reader] = [
                PolicyReader("read back", back.policy, back.stop_ids, slots=self.config.sampler_slots)
            ]
            if chosen.runtime:
                row["llama_cpp"] = self._add_runtime(readers, place)
        except (ModelError, DataError) as error:
            return row | {"notes": [], "compared": [], "figures": [], "faults": [f"it cannot be read again: {error}"]}
        row["notes"] = list(back.notes)
        held = contents(self.source.policy, back.policy)
        compared = [compare(self.truth, reader, self.config.max_new_tokens) for reader in readers]
        for reader in readers:
            if isinstance(reader, LlamaCppReader):
                reader.close()
        row |= {"contents": held.told(), "compared": [each.told() for each in compared]}
        # A model that says no numbers answers no suite either, and is rejected for the former.
        says = all(math.isfinite(each.kl.value) for each in compared)
        row["figures"], unknown = self._figures(back, {"name": name, "file": digest}) if says else ([], [])
        row["faults"] = [fault for each in compared for fault in faults_of(each, budget.kl, budget.flips)]
        row["faults"] += contents_faults(held, budget.row, budget.scale)
        row["faults"] += [*drops(row["figures"], budget.drop), *unknown]
        return row

    def budget(self, chosen: Format) -> Budget:
        """That of the format, with what the settings say in place of it."""
        given = {"kl": self.config.max_kl, "flips": self.config.max_flip_rate, "drop": self.config.max_drop}
        return replace(chosen.budget, **{key: value for key, value in given.items() if value is not None})

    def _add_runtime(self, readers: list[Reader], place: Path) -> str:
        """Add llama.cpp where it is wanted and there; what is said of it otherwise."""
        missing = "not checked by llama.cpp: --llama-cpp no" if self.config.llama_cpp == "no" else why_not()
        if missing and self.config.llama_cpp == "yes":
            raise ConfigError(f"llama_cpp is yes, and the file is {missing}.")
        if not missing:
            readers.append(LlamaCppReader(place, plain_text))
        return missing

    def _figures(self, back: Readback, identity: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
        """The suites again, item by item beside the model in fp32: exported less fp32. And the figures of which nothing
        is known any more, a sentence each."""
        found, unknown = list[dict[str, Any]](), list[str]()
        after = self._taken(back.policy, identity) if self.tasks else {}
        for task in self.tasks:
            for figure in task.figures:
                sides = [_known(each[task.name], figure.name) for each in (after, self.before)]
                if not all(sides):
                    unknown += [f"nothing is known of {task.name}.{figure.name} after export"] if sides[1] else []
                    continue
                difference = paired_difference(sides[0], sides[1], figure.unit)
                means = [_mean(side) for side in sides]
                found.append(
                    {"task": task.name, "figure": figure.name, "title": figure.title, "better": figure.better}
                    | {"unit": figure.unit, "exported": means[0], "fp32": means[1], **difference.told()}
                )
        return found, unknown


def digest_of(place: Path) -> str:
    """The SHA-256 of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if file.is_file():
            digest.update(file.relative_to(place).as_posix().encode() if place.is_dir() else b"")
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _known(taken: Taken, figure: str) -> list[Mark]:
    return [mark for mark in taken.marks if mark.figure == figure and not mark.error]


def _mean(known: Sequence[Mark]) -> float:
    return float(sum(mark.value * mark.weight for mark in known) / sum(mark.weight for mark in known))
