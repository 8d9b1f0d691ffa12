"""Sampled answers in the preference store, and the items that people compare."""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.feedback import tables
from posttrain.feedback.imports import is_new
from posttrain.feedback.store import MAX_ANSWERS, Store
from posttrain.recipes.annotate_items import make_items
from posttrain.recipes.sample_file import Answer, prompt_key
from posttrain.types import Message, Prompt


class StoreOutput:
    """The preference store: prompts, answers, and items of at most MAX_ANSWERS different answers to compare.

    A store that is not there is made with the first answers. An answer's `parameters` hold those of its first sampling
    with `samples` and `finished`; the same answer under others is one more entry of `also`.
    """

    def __init__(self, address: str, *, overlap: int = 1) -> None:
        self.address, self.overlap = address, overlap
        self.opened = None if is_new(address) else Store.open(address)
        self.ids: dict[str, int] = {}

    def done(self, prompt: Prompt, model: str, parameters: Mapping[str, Any]) -> set[int]:
        """As of FileOutput."""
        if self.opened is None:
            return set()
        there = [one for one in self.store.responses(self._id(prompt)) if one.model == model]
        runs = (run for one in there for run in _runs(one.parameters))
        return {number for run in runs if _without(run) == parameters for number in run.get("samples", ())}

    def add(self, prompt: Prompt, model: str, parameters: Mapping[str, Any], answers: Sequence[Answer]) -> int:
        """As of FileOutput; one commit. An answer that is there already from this model is the same answer."""
        again = 0
        with self.store.batch() as connection:
            there = self.store.responses(prompt_id := self._id(prompt))
            known = {one.messages: one for one in there if one.model == model}
            for answer in answers:
                said = (Message("assistant", answer.content),)
                run = {**parameters, "samples": list(answer.samples), "finished": answer.finished}
                before = known.get(said)
                id = self.store.add_response(prompt_id, said, model=model, parameters=run, token_ids=answer.token_ids)
                if before is not None:
                    again += 1
                    row = tables.responses.update().where(tables.responses.c.id == id)
                    connection.execute(row.values(parameters=_joined(before.parameters, run)))
        return again

    def save(self) -> None:
        """Nothing to do: every `add` is on the disk."""

    def finish(self) -> str:
        """Make items of the answers that are in none."""
        if self.opened is None:
            return "nothing was sampled, and no store was made"
        num_new, _ = make_items(
            self.store, fewest=2, most=MAX_ANSWERS, overlap=self.overlap, prompts=set(self.ids.values())
        )
        self.store.close()
        return f"{len(self.ids):,} prompts, {num_new:,} new items to compare"

    @property
    def store(self) -> Store:
        if self.opened is None:
            self.opened = Store.open(self.address)
        return self.opened

    def _id(self, prompt: Prompt) -> int:
        key = prompt_key(prompt)
        if key not in self.ids:
            self.ids[key] = self.store.add_prompt(
                prompt.messages, tools=prompt.tools, source=prompt.source, fields=prompt.fields
            )
        return self.ids[key]


def _runs(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each sampling that gave an answer: its parameters, with the numbers of the samples."""
    first = {name: value for name, value in parameters.items() if name != "also"}
    return [*([first] if first else []), *parameters.get("also", ())]


def _joined(parameters: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an answer that came once more."""
    runs = _runs(parameters)
    same = next((one for one in runs if _without(one) == _without(run)), None)
    if same is None:
        runs.append(dict(run))
    else:
        same["samples"] = sorted({*same.get("samples", ()), *run["samples"]})
    return runs[0] | ({"also": runs[1:]} if runs[1:] else {})


def _without(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in ("samples", "finished")}
