"""Adapters on a base in four bits (QLoRA) beside adapters on the plain base: speed, memory, and what is learned.

    python benchmarks/quantised.py          (about four minutes)

Every measurement is a fresh process that runs `posttrain sft --use-peft` on the pocket's data, with and without
`--load-in-4bit`, otherwise the same. `pocket` is the embedded base, where the loss says something; `large` has random
weights (104 million parameters with the adapter) and says what speed and memory do where weights are most of what
there is. One thread; speed is tokens a second of processor time, so that what else the machine does is not counted.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from process import clean_environment, hardware, must_be_unchanged, run_measured, source_hash

HERE = Path(__file__).parent
LARGE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 12}
ROWS: dict[str, dict[str, Any]] = {
    "pocket": {"max_steps": 30, "max_length": 512, "learning_rate": 1e-3, "max_samples": 600},
    "large": {"max_steps": 4, "max_length": 256, "learning_rate": 1e-4, "max_samples": 100},
}
BASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "nf4": {"load_in_4bit": True},
}


def make_large(folder: Path) -> None:
    """A random Llama with the pocket's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from posttrain.models.load import load_tokenizer
    from posttrain.pocket.base import base_folder

    shape = AutoConfig.from_pretrained(base_folder()).to_dict() | LARGE | {"num_key_value_heads": 12, "head_dim": 64}
    config = AutoConfig.for_model(**shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(base_folder()).save_pretrained(folder)


class Memory:
    """The most resident memory (MiB) of this process, looked at every 20 ms, while it reads and while it trains."""

    def __init__(self) -> None:
        self.process, self.stop = psutil.Process(), threading.Event()
        self.before = self.peak = self.peak_reading = self.now()
        threading.Thread(target=self.watch, daemon=True).start()

    def now(self) -> float:
        return float(self.process.memory_info().rss) / 2**20

    def forget(self) -> None:
        """Training begins."""
        gc.collect()
        self.peak_reading, self.peak = self.peak, self.now()

    def watch(self) -> None:
        while not self.stop.wait(0.02):
            self.peak = max(self.peak, self.now())


def work(job: dict[str, Any]) -> None:
    """One measurement, in a process of its own."""
    time.perf_counter = time.process_time  # before the loop takes it
    import peft  # noqa: F401 (so that its memory is not counted as the model's)

    from posttrain.models.qlora import load_4bit
    from posttrain.recipes import training
    from posttrain.recipes.config import load as load_config
    from posttrain.recipes.policy import load_policy
    from posttrain.recipes.sft import run
    from posttrain.recipes.sft_config import SftConfig

    assert load_4bit  # imported with the rest
    config = load_config(SftConfig, None, job["keys"])
    memory, train = Memory(), training.train
    training.train = lambda *args, **options: (memory.forget(), train(*args, **options))[1]
    run(config)
    memory.stop.set()
    lines = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    policy, _ = load_policy(config)
    held = sum(_bytes(parameter) for parameter in policy.model.parameters() if not parameter.requires_grad)
    found = {
        "tokens_per_s": statistics.median([line["tokens_per_s"] for line in lines if "tokens_per_s" in line][1:]),
        "base_mb": held / 2**20,
        "training_mb": memory.peak - memory.before,
        "with_reading_mb": max(memory.peak, memory.peak_reading) - memory.before,
        "eval_loss_before": losses[0],
        "eval_loss_after": losses[-1],
        "parameters": policy.num_parameters,
    }
    Path(job["out"]).write_text(json.dumps(found))


def _bytes(parameter: Any) -> int:
    """Of a weight with the scales that belong to it."""
    size = parameter.numel() * parameter.element_size()
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return int(size)
    scales = [state.absmax] if state.state2 is None else [state.absmax, state.state2.absmax]
    return int(size) + sum(scale.numel() * scale.element_size() for scale in scales)


def measure(place: Path, row: str, base: str, bf16: bool) -> dict[str, Any]:
    name = f"{row}-{base}-{'bf16' if bf16 else 'fp32'}"
    keys = ROWS[row] | BASES[base] | {"dataset": "pocket", "use_peft": True, "eval_split": 0.1, "bf16": bf16}
    keys |= {"num_preview_samples": 0, "logging_steps": 1 if row == "large" else 10, "save_steps": 0}
    keys |= {"model": "pocket" if row == "pocket" else str(place / "large"), "output_dir": str(place / name)}
    job = {"keys": keys, "out": str(place / f"{name}.json")}
    command = [sys.executable, str(HERE / "quantised.py"), "--job", json.dumps(job)]
    used = run_measured(
        command, env=clean_environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}), log=place / f"{name}.log"
    )
    found = json.loads((place / f"{name}.json").read_text())
    shown = {key: round(value, 4) for key, value in found.items()}
    print(f"{name:20s} {shown}", flush=True)
    return {**shown, "foreign_cores": round(used.foreign_cores, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        work(json.loads(asked.job))
        return
    before, rows = source_hash(), {}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        make_large(place / "large")
        for row in ROWS:
            for bf16 in (False, True):
                both = {base: measure(place, row, base, bf16) for base in BASES}
                ratios = {
                    key: round(both["nf4"][key] / both["plain"][key], 3)
                    for key in ("tokens_per_s", "base_mb", "training_mb", "with_reading_mb", "eval_loss_after")
                }
                rows[f"{row}, {'bf16' if bf16 else 'fp32'}"] = both | {"nf4 / plain": ratios}
                print(f"{'':20s} nf4 / plain {ratios}", flush=True)
    must_be_unchanged(before)
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    found = {
        "command": "python benchmarks/quantised.py",
        "hardware": hardware() | {"threads_used": 1},
        "versions": versions,
        "rows": rows,
    }
    (HERE / "results" / "quantised.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
