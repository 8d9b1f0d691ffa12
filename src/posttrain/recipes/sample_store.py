"""Sampled answers in the preference store, and the items that people compare."""

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.feedback.store import MAX_ANSWERS, Store
from posttrain.recipes.sample_file import Answer, prompt_key
from posttrain.types import Message, Prompt


class StoreOutput:
    """The preference store: prompts, answers, and items of at most MAX_ANSWERS different answers to compare."""

    def __init__(self, address: str, *, overlap: int = 1) -> None:
        self.store, self.overlap = Store.open(address), overlap
        self.ids: dict[str, int] = {}

    def done(self, prompt: Prompt, model: str, parameters: Mapping[str, Any]) -> set[int]:
        """As of FileOutput."""
        there = [one for one in self.store.responses(self._id(prompt)) if one.model == model]
        kept = [(one.parameters.get("samples", ()), _without(one.parameters)) for one in there]
        return {number for samples, given in kept if given == parameters for number in samples}

    def add(self, prompt: Prompt, model: str, parameters: Mapping[str, Any], answers: Sequence[Answer]) -> int:
        """As of FileOutput; one commit. An answer that is there already from this model is the same answer."""
        known = {one.messages[-1].content for one in self.store.responses(self._id(prompt)) if one.model == model}
        with self.store.batch():
            for answer in answers:
                self.store.add_response(
                    self._id(prompt),
                    [Message("assistant", answer.content)],
                    model=model,
                    parameters={**parameters, "samples": list(answer.samples), "finished": answer.finished},
                    token_ids=answer.token_ids,
                )
        return sum(answer.content in known for answer in answers)

    def save(self) -> None:
        """Nothing to do: every `add` is on the disk."""

    def finish(self) -> str:
        """Make the items: the answers to a prompt that differ in text, in groups as even as can be."""
        num_items = 0
        with self.store.batch():
            for prompt_id in self.ids.values():
                found = {one.messages: one.id for one in reversed(self.store.responses(prompt_id))}
                for group in _groups(sorted(found.values())):
                    self.store.add_item(prompt_id, group, overlap=self.overlap)
                    num_items += 1
        self.store.close()
        return f"{len(self.ids):,} prompts, {num_items:,} items to compare"

    def _id(self, prompt: Prompt) -> int:
        key = prompt_key(prompt)
        if key not in self.ids:
            self.ids[key] = self.store.add_prompt(
                prompt.messages, tools=prompt.tools, source=prompt.source, fields=prompt.fields
            )
        return self.ids[key]


def _groups(ids: Sequence[int]) -> list[list[int]]:
    """Groups of 2 to MAX_ANSWERS; a single answer makes none."""
    count = -(-len(ids) // MAX_ANSWERS)
    return [list(ids[index::count]) for index in range(count)] if len(ids) > 1 else []


def _without(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in ("samples", "finished")}
