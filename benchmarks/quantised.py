"""Adapters on a base in four bits (QLoRA) beside adapters on the plain base: speed, memory, and what is learned.

    python benchmarks/quantised.py --part speed     (about three minutes)
    python benchmarks/quantised.py --part loss      (about three minutes; --seeds 0 takes a third)

Every measurement is a fresh process that runs `posttrain sft --use-peft` on the pocket's data, with and without
`--load-in-4bit`, otherwise the same. One thread.

`speed`: `pocket` is the embedded base; `large` has random weights (104 million parameters with the adapter) and says
what speed and memory do where weights are most of what there is. Speed is tokens a second of processor time, so that
what else the machine does is not counted.

`loss`: the embedded base, one epoch of all of its data but a tenth, which is the same in every run of a seed; the
held-out loss at the end, of every seed, with its mean and its standard deviation over them; two runs at a time. Then
what becomes of an adapter that was trained on NF4: merged into the numbers that the four bits stood for, and into the
plain base, both in fp32; their held-out loss and their divergence from the model as it was trained, KL(trained ||
merged), nats a token. `FP4` and `bf16 adapters` (weights and moments of the adapter itself in bf16) are what else one
might take.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
SEEDS = (0, 1, 2)
RATIO = "loss / LoRA's"
LEARNED: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "QLoRA": {"load_in_4bit": True},
    "QLoRA, FP4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "QLoRA, bf16 adapters": {"load_in_4bit": True},
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


def learn(job: dict[str, Any]) -> None:
    """One run of the part `loss`, in a process of its own."""
    import torch

    from posttrain.recipes import policy as policies
    from posttrain.recipes.config import load as load_config
    from posttrain.recipes.sft import run
    from posttrain.recipes.sft_config import SftConfig

    if job["bf16_adapters"]:
        add = policies.add_lora

        def rounded(*given: Any, **named: Any) -> Any:
            made = add(*given, **named)
            for parameter in made.model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16) if parameter.requires_grad else parameter.data
            return made

        policies.add_lora = rounded
    config = load_config(SftConfig, None, job["keys"])
    run(config)
    lines = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    found = {"eval_loss": [line["eval_loss"] for line in lines if "eval_loss" in line][-1]}
    found["steps"] = max(line["step"] for line in lines)
    if job["merges"]:
        found |= merges(config)
    Path(job["out"]).write_text(json.dumps(found))


def merges(config: Any) -> dict[str, Any]:
    """The adapter of a finished run in one piece with either base."""
    from posttrain.models.attention import install_attention
    from posttrain.models.load import load, restore
    from posttrain.models.lora import merge_lora
    from posttrain.models.qlora import merge_held
    from posttrain.models.token_kl import token_kl
    from posttrain.recipes.policy import load_policy
    from posttrain.recipes.training_data import held_batches, load_data
    from posttrain.train.evaluation import held_out_loss
    from posttrain.train.objectives import SFT

    out = Path(config.output_dir)
    trained, _ = load_policy(config)
    restore(trained, out)
    trained.model.eval()
    held = load_data(config, trained.tokenizer, lambda _: None).held_out
    batches = held_batches(held, held.length_S, config.max_length)
    found: dict[str, Any] = {"trained": {"eval_loss": held_out_loss(trained, batches, SFT)}}
    for name, made in (("held", merge_held(out)), ("plain", merge_lora(load(out)))):
        install_attention(made.model.eval())
        sums = [token_kl(trained.model, made.model, batch) for batch in batches]
        kl = sum(float(each.double().sum()) for each in sums) / sum(map(len, sums))
        found[f"merged into {name}"] = {"eval_loss": held_out_loss(made, batches, SFT), "kl": kl}
    return found


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
    found = run_worker(place, name, {"keys": keys})
    shown = {key: round(value, 4) for key, value in found.items()}
    print(f"{name:20s} {shown}", flush=True)
    return shown


def run_worker(place: Path, name: str, job: dict[str, Any]) -> dict[str, Any]:
    """One measurement's figures, with what else took the processors meanwhile."""
    job |= {"out": str(place / f"{name}.json")}
    command = [sys.executable, str(HERE / "quantised.py"), "--job", json.dumps(job)]
    env = clean_environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    used = run_measured(command, env=env, log=place / f"{name}.log")
    found: dict[str, Any] = json.loads((place / f"{name}.json").read_text())
    return found | {"foreign_cores": round(used.foreign_cores, 2)}


def losses(seeds: list[int], max_steps: int) -> dict[str, Any]:
    """The part `loss`: every kind of adapter by seed, and its loss beside LoRA's of the same seed."""
    keys = {"dataset": "pocket", "use_peft": True, "eval_split": 0.1, "bf16": True, "num_train_epochs": 1}
    keys |= {"num_preview_samples": 0, "save_steps": 0, "max_steps": max_steps}
    with tempfile.TemporaryDirectory() as made:

        def one(case: tuple[str, int]) -> dict[str, Any]:
            name, seed = case
            mark = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            job: dict[str, Any] = {"keys": keys | LEARNED[name] | {"seed": seed, "output_dir": f"{made}/{mark}"}}
            job |= {"bf16_adapters": "bf16" in name, "merges": name == "QLoRA", "learn": True}
            found = run_worker(Path(made), mark, job)
            print(f"{mark:24s} {found}", flush=True)
            return found

        cases = [(name, seed) for seed in seeds for name in LEARNED]
        with ThreadPoolExecutor(2) as pool:  # a loss does not hang on what else runs
            found = dict(zip(cases, pool.map(one, cases), strict=True))
    rows: dict[str, Any] = {}
    for name in LEARNED:
        each = [found[name, seed]["eval_loss"] for seed in seeds]
        ratios = [loss / found["LoRA", seed]["eval_loss"] for loss, seed in zip(each, seeds, strict=True)]
        rows[name] = {str(seed): found[name, seed] for seed in seeds}
        rows[name] |= {"eval_loss": spread(each), RATIO: spread(ratios)}
        print(f"{name:24s} {rows[name]['eval_loss']} of LoRA's {rows[name][RATIO]}", flush=True)
    return rows


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds; of one seed there is none."""
    deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 4), "deviation": deviation, "each": [round(v, 4) for v in values]}


def speeds(rows_of: list[str]) -> dict[str, Any]:
    """The part `speed`."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        make_large(place / "large")
        for row in rows_of:
            for bf16 in (False, True):
                both = {base: measure(place, row, base, bf16) for base in BASES}
                ratios = {
                    key: round(both["nf4"][key] / both["plain"][key], 3)
                    for key in ("tokens_per_s", "base_mb", "training_mb", "with_reading_mb", "eval_loss_after")
                }
                rows[f"{row}, {'bf16' if bf16 else 'fp32'}"] = both | {"nf4 / plain": ratios}
                print(f"{'':20s} nf4 / plain {ratios}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("speed", "loss"), help="Only this; what the other one found stays.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="Of the part `loss`.")
    parser.add_argument("--max-steps", type=int, default=-1, help="Of the part `loss`: a run to see that it runs.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="Of the part `speed`.")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "quantised.json")
    asked = parser.parse_args()
    if asked.job:
        job = json.loads(asked.job)
        (learn if job.get("learn") else work)(job)
        return
    before, place = source_hash(), asked.out
    found: dict[str, Any] = json.loads(place.read_text()) if asked.part and place.exists() else {}
    found |= {"command": "python benchmarks/quantised.py", "hardware": hardware() | {"threads_used": 1}}
    found["versions"] = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    if asked.part != "loss":
        found["rows"] = speeds(asked.rows)
    if asked.part != "speed":
        found["loss"] = losses(list(asked.seeds), asked.max_steps)
    must_be_unchanged(before)
    place.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
