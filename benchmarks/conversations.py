"""Many conversations from a seed, put together from what the pocket world says."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.pocket.chat import SYSTEMS, chat_conversations
from posttrain.pocket.corpus import documents
from posttrain.pocket.world import build_world

TURNS = ((1, 2, 3, 4, 5, 6), (26, 24, 18, 14, 10, 8))  # how many, and how often in a hundred
OPENINGS = ("", "", "", "Please tell me: ", "One more question. ", "I would like to know something. ", "Thanks. ")
READ_THIS = ("Read this and repeat the first sentence.\n\n{}", "{}\n\nHow does this text begin?")
NUM_TEXTS = 2_000


def conversations(num: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows in the messages layout, one to six turns each, about 190 tokens of the pocket tokenizer in the mean."""
    world, rng = build_world(), random.Random(seed)
    pairs = [
        (asked.content, answer.content)
        for conversation in chat_conversations(world)
        for asked, answer in zip(conversation.messages[-2::-2], conversation.messages[::-2], strict=False)
    ]
    texts = [text.strip()[:600] for _, text in islice(documents(world, seed), NUM_TEXTS)]
    for _ in range(num):
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.4 else []
        for _ in range(rng.choices(*TURNS)[0]):
            if rng.random() < 0.06:
                text = rng.choice(texts)
                asked, answer = rng.choice(READ_THIS).format(text), text.split("\n")[0]
            else:
                drawn = rng.choices(pairs, k=rng.choice((1, 1, 2, 3)))
                asked = rng.choice(OPENINGS) + " ".join(question for question, _ in drawn)
                answer = "\n\n".join(reply for _, reply in drawn)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        yield {"messages": messages}


def write_conversations(path: Path, num: int, seed: int = 0) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in conversations(num, seed))
