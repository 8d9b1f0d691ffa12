"""What `posttrain annotate` puts in front of people: files of prompts with answers, and items that compare them."""

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from posttrain.data.fields import FieldError
from posttrain.data.files import find_files, raw_rows
from posttrain.data.json_text import decode, explain
from posttrain.data.layouts import parse_row
from posttrain.data.preferences import answered, asked
from posttrain.errors import DataError
from posttrain.feedback.ballots import Item, StoredResponse
from posttrain.feedback.store import Store
from posttrain.types import Conversation, Message, Preference, Ranking, Record

Row = TypeVar("Row", Item, StoredResponse)
Answer = tuple[tuple[Message, ...], str]  # an answer and the model that wrote it, empty where nobody says


def add_files(store: Store, paths: Sequence[str]) -> int:
    """Prompts and answers of files into the store; the number of prompts. Raises DataError naming file, line, field.

    A row is `prompt` and `responses` (texts, or mappings with `content` and `model`), as `posttrain sample` writes it,
    a preference or a ranking (its verdict is left aside), or a prompt with one answer: rows of one prompt go together.
    """
    prompts: set[int] = set()
    for file in (found for path in paths for found in find_files(path)):
        with store.batch(), closing(raw_rows(file)) as rows:
            for line, raw in rows:
                prompt, tools, answers = _read(raw, file, line)
                id = store.add_prompt(prompt, tools=tools, source=f"{file.name}:{line}")
                for messages, model in answers:
                    store.add_response(id, messages, model=model)
                prompts.add(id)
    return len(prompts)


def check_files(paths: Sequence[str]) -> None:
    """Raise what `add_files` would, before there is a store."""
    for file in (found for path in paths for found in find_files(path)):
        with closing(raw_rows(file)) as rows:
            for line, raw in rows:
                _read(raw, file, line)


def _read(raw: Any, file: Path, line: int) -> tuple[tuple[Message, ...], Sequence[Any], list[Answer]]:
    try:
        row = decode(raw.decode("utf-8").removeprefix("\ufeff")) if isinstance(raw, bytes) else raw
        if isinstance(row, dict) and isinstance(row.get("responses"), list) and "prompt" in row:
            tools = row.get("tools") or ()
            models = row.get("models") or [row.get("model", "")] * len(row["responses"])
            if len(models) != len(row["responses"]):
                raise FieldError(f"got {len(models)} models for {len(row['responses'])} responses.", "models")
            said = zip(row["responses"], models, strict=True)
            answers = [_answer(one, str(model or ""), f"responses[{index}]") for index, (one, model) in enumerate(said)]
            return asked(row, "prompt"), tools, answers
    except FieldError as error:
        raise DataError(error.message, file=str(file), line=line, field=error.field) from None
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is no UTF-8 text.", file=str(file), line=line) from None
    except ValueError as error:
        raise DataError(f"{explain(error)}.", file=str(file), line=line) from None
    records = parse_row(raw, file=str(file), line=line).records
    found = _answers(records[0], str(row.get("model") or "")) if len(records) == 1 else None
    if found is None:
        raise DataError(
            "there are no answers to compare. Give `prompt` and `responses`, a preference or a ranking.",
            file=str(file),
            line=line,
        )
    return found


def _answer(value: Any, model: str, field: str) -> Answer:
    """Text, messages, or one message with the model that wrote it."""
    if not isinstance(value, Mapping):
        return answered(value, field), model
    messages = value.get("messages")
    said = answered(messages if messages is not None else {"role": "assistant", "content": value.get("content")}, field)
    return said, str(value.get("model") or model)


def _answers(record: Record, model: str) -> tuple[tuple[Message, ...], Sequence[Any], list[Answer]] | None:
    match record:
        case Preference(prompt, chosen, rejected, _, tools):
            return prompt, tools, [(chosen, ""), (rejected, "")]
        case Ranking(prompt, responses, _, _, tools):
            return prompt, tools, [(response, "") for response in responses]
        case Conversation(messages, _, tools) if len(messages) > 1 and messages[-1].role == "assistant":
            return messages[:-1], tools, [(messages[-1:], model)]
    return None


def make_items(
    store: Store, *, fewest: int, most: int, overlap: int, seed: int = 0, prompts: Collection[int] | None = None
) -> tuple[int, int]:
    """Items for the answers that are in none, and every item widened to `overlap`; (items that are new, prompts with
    fewer than `fewest` different answers, which are left out). `prompts`: of these alone."""
    compared: dict[int, set[int]] = defaultdict(set)
    for item in _under(store.items(), prompts):
        compared[item.prompt_id].update(item.response_ids)
    answers: dict[int, dict[tuple[Message, ...], int]] = defaultdict(dict)
    for response in _under(store.responses(), prompts):
        # Two models that say the same give nobody anything to compare.
        if response.messages not in answers[response.prompt_id] or response.id in compared[response.prompt_id]:
            answers[response.prompt_id][response.messages] = response.id
    num_new = num_few = 0
    with store.batch():
        for item in _under(store.items(), prompts):
            if item.overlap < overlap:
                store.add_item(item.prompt_id, item.response_ids, overlap=overlap)
        for prompt_id, found in answers.items():
            ids = list(found.values())
            if len(ids) < fewest:
                num_few += 1
            elif set(ids) - compared[prompt_id]:
                for group in groups(ids, compared[prompt_id], most, random.Random(f"{seed}/{prompt_id}")):
                    store.add_item(prompt_id, group, overlap=overlap)
                    num_new += 1
    return num_new, num_few


def _under(rows: Sequence[Row], prompts: Collection[int] | None) -> list[Row]:
    return [row for row in rows if prompts is None or row.prompt_id in prompts]


def groups(ids: Sequence[int], compared: set[int], most: int, rng: random.Random) -> list[list[int]]:
    """Those of `ids` that were not compared, in groups of 2 to `most`, as even as can be; an answer that is left alone
    meets one of the others.

    >>> groups([1, 2, 3, 4, 5], set(), 4, random.Random(0))
    [[3, 1, 4], [2, 5]]
    """
    new = [id for id in ids if id not in compared]
    rng.shuffle(new)
    num = -(-len(new) // most)
    found = [new[index::num] for index in range(num)]
    for group in found:
        if len(group) == 1:
            group.append(rng.choice([id for id in ids if id not in group]))
    return found
