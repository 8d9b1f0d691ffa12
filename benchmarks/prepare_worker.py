"""One measured process of prepare.py. Its last line of output is JSON.

python benchmarks/prepare_worker.py prepare DATA CACHE NUM_PROC MAX_LENGTH
python benchmarks/prepare_worker.py encode TEXTS METHOD     (waits for a line of input before it begins)
"""

import hashlib
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 1_000


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    from posttrain.data.template import install_template
    from posttrain.pocket.base import base_folder

    made = AutoTokenizer.from_pretrained(base_folder())
    install_template(made, "chatml")
    return made


def prepare(data: str, cache: str, num_proc: str, max_length: str) -> dict[str, Any]:
    """Prepares, plans an epoch, and reads it from end to end."""
    from posttrain.data.packing import shuffled_rows
    from posttrain.data.prepare import prepare

    made = tokenizer()
    began = time.perf_counter()
    prepared = prepare(
        data,
        made,
        max_length=int(max_length),
        num_proc=int(num_proc),
        cache_dir=cache,
        say=lambda line: print(line, flush=True),
    )
    ready = time.perf_counter()
    store = prepared.store
    rows = shuffled_rows(store.length_S, int(max_length), seed=0)
    planned = time.perf_counter()
    read = sum(len(store[index].segments[0].token_ids) for row in rows for index in row)
    done = time.perf_counter()
    tokens = int(store.length_S.sum())
    assert read == tokens, "an epoch has every token once"
    return {
        "prepare_s": ready - began,
        "plan_s": planned - ready,
        "read_s": done - planned,
        "samples": len(store),
        "tokens": tokens,
        "trained_tokens": int(store.trained_S.sum()),
        "rows": len(rows),
        "packing_efficiency": tokens / (len(rows) * int(max_length)),
        "num_made": prepared.num_made,
        "num_found": prepared.num_found,
        "num_long": prepared.num_long,
        "digest": hashlib.sha256(store.digest_S.tobytes() + store.length_S.tobytes()).hexdigest(),
    }


def encode(texts: str, method: str) -> dict[str, Any]:
    """What the tokenizer's engine alone takes for texts that were rendered before."""
    engine = tokenizer().backend_tokenizer
    found = pickle.loads(Path(texts).read_bytes())
    tokens = sum(len(encoding.ids) for encoding in engine.encode_batch(found[:BATCH], add_special_tokens=False))
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    tokens = 0
    for start in range(0, len(found), BATCH):
        batch = getattr(engine, method)(found[start : start + BATCH], add_special_tokens=False)
        tokens += sum(map(len, batch))
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


if __name__ == "__main__":
    job = {"prepare": prepare, "encode": encode}[sys.argv[1]]
    print(json.dumps(job(*sys.argv[2:])))
