"""Any data to prompts: what was said up to the answer, once each."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.sources import read
from posttrain.errors import DataError
from posttrain.pocket.manners import preference_prompts
from posttrain.pocket.world import build_world
from posttrain.recipes.dataset_config import DatasetEntry
from posttrain.recipes.dataset_reading import made_here
from posttrain.types import Conversation, MessageTree, Preference, Prompt, Ranking, Rating, Record


def read_prompts(entries: Sequence[DatasetEntry], limit: int | None, say: Callable[[str], None]) -> list[Prompt]:
    """The different prompts of all entries, in order; what gives none is counted aloud. DataError where none is left.

    `pocket` is the prompts to learn from of the pocket world; those held out are for measuring.
    """
    found: dict[Any, Prompt] = {}
    for entry in entries:
        reasons: Counter[str] = Counter()
        records = list(records_of(entry))
        before, taken = len(found), 0
        for record in records:
            prompt = prompt_of(record)
            if prompt is None:
                reasons[f"{type(record).__name__.lower()}s have no prompt"] += 1
                continue
            key = (prompt.messages, repr(prompt.tools))
            reasons["the same prompt again"] += key in found
            found.setdefault(key, prompt)
            taken = len(found) - before
            if taken == entry.max_samples:
                break
        left = "".join(f"; left out {count:,}: {why}" for why, count in reasons.items() if count)
        say(f"{taken:,} prompts of {entry.path}{left}")
    if not found:
        raise DataError("no row holds a prompt.", file=", ".join(entry.path for entry in entries))
    return list(found.values())[:limit]


def pocket_prompts(say: Callable[[str], None]) -> list[Prompt]:
    """`read_prompts` of `pocket` where nobody named it: a file or folder of that name is not meant."""
    found: dict[Any, Prompt] = {}
    for prompt in filter(None, (prompt_of(item.record) for item in preference_prompts(build_world())[0])):
        found.setdefault((prompt.messages, repr(prompt.tools)), prompt)
    say(f"{len(found):,} prompts of pocket")
    return list(found.values())


def prompt_of(record: Record) -> Prompt | None:
    """The prompt of a record: what comes before the last answer of a conversation, which becomes its gold answer, or
    before the judged answers of others."""
    match record:
        case Prompt():
            return record
        case Conversation(messages, source, tools):
            turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
            asked = messages[: turns[-1]] if turns else messages
            gold = messages[turns[-1]].content if turns else ""
            return Prompt(asked, source, tools, answer=gold) if asked else None
        case Preference() | Rating() | Ranking():
            return Prompt(record.prompt, record.source, record.tools)
        case MessageTree(root, source):
            return Prompt((root.message,), source)
    return None


def records_of(entry: DatasetEntry) -> Iterator[Record]:
    """Everything that an entry of `dataset:` holds, as prompts are read from it."""
    if entry.path == "pocket" and not Path("pocket").exists():
        if entry.name is None:
            side = int(entry.split == "test")  # those to learn from, or those held out
            yield from (item.record for item in preference_prompts(build_world())[side])
        else:
            yield from made_here(entry, held_out=False)
        return
    for source in read(entry.path, columns=entry.columns or None, name=entry.name, split=entry.split):
        yield from source.records
