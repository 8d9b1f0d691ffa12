"""Faults that make gibberish of an export, planted one at a time, and what the check of `posttrain export` says.

    python benchmarks/export_faults.py RUN_FOLDER          (about three minutes)

RUN_FOLDER: a Llama-shaped model of the pocket world with a chat template, as `posttrain quickstart` leaves one. Each
fault is planted in the writer of a GGUF file in fp32, so that nothing but the fault differs; the file is read again
here and, where llama-cpp-python is installed, by llama.cpp. Every one of them loads without a word.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.data.template import stop_token_ids
from posttrain.evals.export_check import compare, faults_of, truth_of
from posttrain.evals.export_reader import PolicyReader, Reader
from posttrain.evals.forward_kl import answers_of_base
from posttrain.models import gguf_model, gguf_shapes, gguf_tokenizer
from posttrain.models.gguf_read import read_gguf
from posttrain.models.gguf_splits import probe_texts
from posttrain.models.llama_cpp import LlamaCppReader, why_not
from posttrain.models.load import load
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.export_formats import FORMATS
from posttrain.recipes.sample_prompts import read_prompts
from posttrain.recipes.suite_options import drawn
from posttrain.rollouts.asking import Ask
from posttrain.rollouts.text_ids import plain_text
from process import hardware

HERE = Path(__file__).parent
MAX_NEW = 64


def fields_of(module: Any, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> tuple[Any, str, Any]:
    """A writer's function whose fields are changed on the way out."""
    made = getattr(module, name)

    def other(*arguments: Any) -> Any:
        fields, told = made(*arguments)
        return change(fields), told

    return module, name, other


def swapped(lists: dict[str, Any]) -> dict[str, Any]:
    tokens = lists["tokens"]
    e, t = tokens.index("e"), tokens.index("t")
    tokens[e], tokens[t] = tokens[t], tokens[e]
    return lists


def faults() -> dict[str, tuple[Any, str, Any] | None]:
    """What is replaced by what; None: the stop token of the template is left out."""
    template, lists = "tokenizer.chat_template", gguf_tokenizer.token_lists
    return {
        "none": (gguf_shapes, "paired_rows", gguf_shapes.paired_rows),
        "template without the assistant's line": fields_of(
            gguf_model, "tokenizer_fields",
            lambda fields: fields | {template: fields[template].replace("<|im_start|>assistant\\n", "")},
        ),
        "stop token missing": None,
        "q and k not permuted": (gguf_shapes, "paired_rows", lambda rows, _: rows),
        "rope theta 1,000,000 for 10,000": fields_of(
            gguf_model, "shape_fields", lambda fields: fields | {"llama.rope.freq_base": 1e6}
        ),
        "two byte tokens exchanged": (gguf_tokenizer, "token_lists", lambda *a: swapped(lists(*a))),
    }  # fmt: skip


@contextmanager
def planted(fault: tuple[Any, str, Any] | None) -> Iterator[None]:
    """The fault for the time of the block."""
    if fault is None:
        yield
        return
    module, name, other = fault
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--num-prompts", type=int, default=100)
    arguments = parser.parse_args()
    policy = load(arguments.model)
    stops = stop_token_ids(policy.tokenizer)
    prompts = drawn(read_prompts([DatasetEntry(path="pocket")], None, print), arguments.num_prompts, 0)
    asks = [Ask(messages=prompt.messages) for prompt in prompts]
    answered = answers_of_base(policy, asks, max_new_tokens=MAX_NEW)
    reader = PolicyReader("fp32", policy, stops)
    truth = truth_of(reader, asks, answered, probe_texts()[:300], policy.tokenizer, MAX_NEW)
    budget, rows = FORMATS["gguf-q4_0"].budget, []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, fault) in enumerate(faults().items()):
            path = Path(folder) / f"{number}.gguf"
            with planted(fault):
                ends = [policy.tokenizer.eos_token_id] if fault is None else stops
                gguf_model.write_gguf(policy, path, kind="F32", name="planted", stop_ids=ends)
            again, found, _ = read_gguf(path)
            readers: list[Reader] = [PolicyReader("read back", again, found)]
            readers += [] if why_not() else [LlamaCppReader(path, plain_text)]
            for each in readers:
                told = compare(truth, each, MAX_NEW)
                said = faults_of(told, budget.kl, budget.flips)
                rows.append({"fault": name, "faults": said, **told.told()})
                rows[-1].pop("examples")
                print(
                    f"{name} | {told.reader} | prompts unequal {told.unequal_prompts} of {told.num_prompts} | texts "
                    f"unequal {told.unequal_texts} of {told.num_texts} | KL {told.kl.value:.2g} | flips "
                    f"{100 * told.flips.value:.0f} % | not ended {told.not_ended} | {'REJECTED' if said else 'passed'}"
                )
    record = {"rows": rows, "budget": vars(budget), "hardware": hardware()}
    place = HERE / "results" / "export_faults.json"
    place.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
