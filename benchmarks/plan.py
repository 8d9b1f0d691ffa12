"""Planned against measured: memory and step time of short runs of many recipes on this processor.

    python benchmarks/plan.py --output benchmarks/results/plan.json

Each run is a training verb in a process of its own. What the formulas do not know of this machine (how loosely its
allocator holds memory, how fast it is) is fitted on the runs of CALIBRATION alone; then the plans of TESTED are made,
and only then are those run. Memory is resident memory at its fullest over that of the loaded libraries; time is the
median of the steps after the first. `--paper` holds the formulas against what others have published of GPUs instead.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 240
WORDS = ["river", "stone", "green", "house", "seven", "paper", "light", "south", "bread", "cloud"]
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"kind": "llama", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": True},
    "small": {"kind": "qwen3", "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 6, "head_dim": 64,
              "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 8192, "tie_word_embeddings": True},
    "gpt": {"kind": "gpt2", "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 2048, "vocab_size": 4096,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "middle": {"kind": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
               "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192, "tie_word_embeddings": False},
    "large": {"kind": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
              "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32000, "tie_word_embeddings": True},
}  # fmt: skip
LORA = {"use_peft": True}
QLORA = {"use_peft": True, "load_in_4bit": True}
GC = {"gradient_checkpointing": True}
FP32 = {"bf16": False}


def sft(model: str, length: int, rows: int = 1, **more: Any) -> tuple[str, dict[str, Any]]:
    shape = {"max_length": length, "per_device_train_batch_size": rows}
    return "sft", {"model": model, "dataset": "chats.jsonl", **shape, **more}


def pairs(verb: str, model: str, length: int, rows: int = 1, **more: Any) -> tuple[str, dict[str, Any]]:
    shape = {"max_length": length, "per_device_train_batch_size": rows, "max_samples": 80}
    cache = {"reference_cache": False} if verb in ("dpo", "kto") else {}
    return verb, {"model": model, "dataset": "pairs.jsonl", **shape, **cache, **more}


def rolls(verb: str, model: str, prompts: int, answers: int, length: int, **more: Any) -> tuple[str, dict[str, Any]]:
    shape = {"num_prompts": prompts, "num_generations": answers, "max_completion_length": length}
    bounds = {"allow_truncated": True, "max_mismatch": 100.0, "num_mini_batches": 1}
    settings = {"model": model, "dataset": "prompts.jsonl", "reward": "reward.py:score", **shape, **bounds, **more}
    return verb, settings | ({"num_ppo_epochs": 1} if verb == "ppo" else {})


CALIBRATION: dict[str, tuple[str, dict[str, Any]]] = {
    "pocket 768": sft("pocket", 768),
    "pocket 1024 x 3, fp32": sft("pocket", 1024, 3, **FP32),
    "pocket 1024 x 2, checkpointing": sft("pocket", 1024, 2, **GC),
    "middle 768": sft("middle", 768),
    "middle 768, LoRA": sft("middle", 768, **LORA),
    "middle 640, QLoRA": sft("middle", 640, **QLORA),
    "small 512 x 2, LoRA, fp32": sft("small", 512, 2, **LORA, **FP32),
    "large 256": sft("large", 256),
    "pocket, grpo 6 x 4 x 64": rolls("grpo", "pocket", 6, 4, 64),
    "middle 512, reward": pairs("reward", "middle", 512),
}
TESTED: dict[str, tuple[str, dict[str, Any]]] = {
    "pocket 512": sft("pocket", 512),
    "pocket 1024": sft("pocket", 1024),
    "pocket 1024 x 4": sft("pocket", 1024, 4),
    "pocket 1024 x 2, fp32": sft("pocket", 1024, 2, **FP32),
    "pocket 1024 x 4, checkpointing": sft("pocket", 1024, 4, **GC),
    "pocket 1024 x 2, LoRA": sft("pocket", 1024, 2, **LORA),
    "pocket 1024 x 2, QLoRA": sft("pocket", 1024, 2, **QLORA),
    "tiny 1024 x 2": sft("tiny", 1024, 2),
    "small 512 x 2": sft("small", 512, 2),
    "small 1024, checkpointing": sft("small", 1024, **GC),
    "gpt 512": sft("gpt", 512),
    "middle 512": sft("middle", 512),
    "middle 512, fp32": sft("middle", 512, **FP32),
    "middle 512, two micro-batches": sft("middle", 512, gradient_accumulation_steps=2),
    "middle 1024, checkpointing": sft("middle", 1024, **GC),
    "middle 512, LoRA": sft("middle", 512, **LORA),
    "middle 1024, LoRA, checkpointing": sft("middle", 1024, **LORA, **GC),
    "middle 512, QLoRA": sft("middle", 512, **QLORA),
    "large 512": sft("large", 512),
    "large 512, QLoRA": sft("large", 512, **QLORA),
    "pocket 1024, dpo": pairs("dpo", "pocket", 1024),
    "middle 512, dpo, LoRA": pairs("dpo", "middle", 512, **LORA),
    "pocket 1024 x 2, reward": pairs("reward", "pocket", 1024, 2),
    "small 512, orpo": pairs("orpo", "small", 512),
    "pocket, grpo 4 x 8 x 96": rolls("grpo", "pocket", 4, 8, 96),
    "small, grpo 4 x 4 x 48": rolls("grpo", "small", 4, 4, 48),
    "pocket, ppo 12 x 1 x 64": rolls("ppo", "pocket", 12, 1, 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--only", help="of the tested runs those with this in their name")
    parser.add_argument("--paper", action="store_true", help="what others published of GPUs, against the formulas")
    options = parser.parse_args()
    if options.paper:
        show_reports()
        return
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    from process import THREADS, hardware, must_be_unchanged, source_hash

    torch.set_num_threads(THREADS)
    sources, began = source_hash(), time.perf_counter()
    tested = {name: run for name, run in TESTED.items() if not options.only or options.only in name}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_inputs(place)
        machine = Machine(place)
        found = run_all(machine, tested)
    must_be_unchanged(sources)
    result = {"command": "python benchmarks/plan.py", "hardware": hardware(), **found}
    result["seconds"] = time.perf_counter() - began
    show(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run_all(machine: "Machine", tested: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Calibrate, plan, and only then measure."""
    from dataclasses import asdict

    from posttrain.planning.calibration import Measured, fitted_loose, fitted_rates
    from posttrain.planning.memory import GLIBC, memory
    from posttrain.planning.timing import CPU, step_time

    known = []
    for name, run in CALIBRATION.items():
        hardware, job = machine.plan(*run)
        took = machine.measure(name, *run)
        known.append(Measured(job, hardware.device, took["memory"], took["step_s"]))
    loose, rates = fitted_loose(known, GLIBC), fitted_rates(known, CPU)
    plans = {}
    for name, run in tested.items():
        hardware, job = machine.plan(*run)
        plans[name] = (memory(job, hardware.device, loose=loose).total, step_time(job, hardware, rates).seconds)
    rows = []
    for name, run in tested.items():
        took = machine.measure(name, *run)
        said = plans[name]
        rows.append(
            {"run": name, "verb": run[0], "planned_mib": said[0] / 2**20, "measured_mib": took["memory"] / 2**20,
             "memory_error": said[0] / took["memory"] - 1, "planned_s": said[1], "measured_s": took["step_s"],
             "time_error": said[1] / took["step_s"] - 1}
        )  # fmt: skip
    seen = [
        {"run": name, "measured_mib": each.memory / 2**20, "measured_s": each.step_s,
         "fitted_mib": memory(each.job, each.device, loose=loose).total / 2**20,
         "fitted_s": step_time(each.job, machine.hardware_of(CALIBRATION[name][1]["model"]), rates).seconds}
        for name, each in zip(CALIBRATION, known, strict=True)
    ]  # fmt: skip
    return {
        "median_memory_error": median(abs(row["memory_error"]) for row in rows),
        "median_time_error": median(abs(row["time_error"]) for row in rows),
        "tested": rows, "calibration": seen, "loose": asdict(loose), "rates": asdict(rates),
    }  # fmt: skip


class Machine:
    """Where models and data lie, what each model's products reach here, and how runs are planned and measured."""

    def __init__(self, place: Path) -> None:
        self.place, self.known = place, {}

    def settings(self, verb: str, given: dict[str, Any]) -> dict[str, Any]:
        """Of a short run: its last steps are timed, nothing else is done."""
        model = given["model"]
        steps = {"max_steps": 5 if model == "large" else 7, "logging_steps": 1, "save_steps": 0}
        data = str(self.place / given["dataset"])
        named = {"model": model if model == "pocket" else str(self.place / model), "dataset": data}
        if verb in ("grpo", "ppo"):
            return given | named | steps | {"reward": str(self.place / given["reward"])}
        return given | named | steps | {"data_checks": "off", "num_preview_samples": 0}

    def hardware_of(self, model: str) -> Any:
        """This machine, as it multiplies this model's matrices."""
        from posttrain.recipes.plan_config import config_of
        from posttrain.recipes.plan_here import this_machine
        from posttrain.recipes.plan_shape import shape_named

        assert config_of is not None
        if model not in self.known:
            shape = shape_named(model if model == "pocket" else str(self.place / model))
            given = dict.fromkeys(("memory_gb", "tflops", "bandwidth_gbs", "link_gbs", "net_gbs", "efficiency"))
            self.known[model] = this_machine(shape, tokens=768, given=given, processes=1)
        return self.known[model]

    def plan(self, verb: str, given: dict[str, Any]) -> tuple[Any, Any]:
        """The hardware and the job, from the recipe alone."""
        from posttrain.recipes.plan_config import joined
        from posttrain.recipes.plan_here import fast_bf16_here
        from posttrain.recipes.plan_job import job_of

        hardware = self.hardware_of(given["model"])
        config = joined(verb).model_validate(self.settings(verb, given) | {"stage": verb})
        return hardware, job_of(config, verb, hardware, has_fast_bf16=fast_bf16_here(), say=lambda _: None)

    def measure(self, name: str, verb: str, given: dict[str, Any]) -> dict[str, Any]:
        """What it takes, in a process of its own."""
        from process import THREADS, clean_environment

        output, request, answer = (self.place / part for part in ("run", "request.json", "answer.json"))
        shutil.rmtree(output, ignore_errors=True)
        settings = self.settings(verb, given) | {"output_dir": str(output)}
        request.write_text(
            json.dumps({"verb": verb, "settings": settings, "result": str(answer), "threads": THREADS}),
            encoding="utf-8",
        )
        done = subprocess.run(
            [sys.executable, "-m", "posttrain.recipes.plan_worker", str(request)],
            env=clean_environment({"POSTTRAIN_CACHE": str(self.place / "cache")}),
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"error: the run {name!r} failed:\n{done.stderr[-1500:]}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        print(f"{name:36} {found['memory'] / 2**20:7.0f} MiB {1000 * found['step_s']:8.0f} ms", flush=True)
        return found


def make_inputs(place: Path) -> None:
    """Random models with the tokenizer of the pocket base, and data of varied lengths."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from posttrain.pocket.base import base_folder

    torch.manual_seed(0)
    for name, sizes in MODELS.items():
        kind, given = sizes["kind"], {key: value for key, value in sizes.items() if key != "kind"}
        if kind != "gpt2":
            given["max_position_embeddings"] = 2048
        config = AutoConfig.for_model(kind, **given, bos_token_id=0, eos_token_id=0, pad_token_id=1)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(place / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base_folder() / file, place / name / file)
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    chats = [
        {
            "messages": [
                {"role": "user", "content": f"{i} {words(10, 60)}"},
                {"role": "assistant", "content": words(20, 120)},
            ]
        }
        for i in range(400)
    ]
    compared = [
        {"prompt": f"{i} {words(20, 60)}", "chosen": words(20, 80), "rejected": words(20, 80)} for i in range(300)
    ]
    asked = [{"prompt": f"{i} {words(10, 30)}", "answer": "1"} for i in range(200)]
    for file, rows in (("chats", chats), ("pairs", compared), ("prompts", asked)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{file}.jsonl").write_text(text, encoding="utf-8")
    (place / "reward.py").write_text(
        "import zlib\n\n\ndef score(answer, **_):\n    return zlib.crc32(str(answer).encode()) % 1000 / 1000\n",
        encoding="utf-8",
    )


def show(result: dict[str, Any]) -> None:
    """The table."""
    print("\n| run | memory, MiB: planned | measured | error | step, ms: planned | measured | error |")
    print("|---|---|---|---|---|---|---|")
    for row in result["tested"]:
        print(
            f"| {row['run']} | {row['planned_mib']:,.0f} | {row['measured_mib']:,.0f} | {row['memory_error']:+.0%} "
            f"| {1000 * row['planned_s']:,.0f} | {1000 * row['measured_s']:,.0f} | {row['time_error']:+.0%} |"
        )
    memory, seconds = result["median_memory_error"], result["median_time_error"]
    print(f"\nmedian error: memory {memory:.1%}, time {seconds:.1%} of {len(result['tested'])} runs; "
          f"{len(result['calibration'])} more to calibrate; {result['seconds']:.0f} s")  # fmt: skip


def show_reports() -> None:
    """What others measured on GPUs."""
    from posttrain.planning.paper import reports

    print("| report | run | tokens/s a GPU: theirs | ours | error |\n|---|---|---|---|---|")
    for row in reports():
        run = f"{row['model']}, {row['hardware']}, {row['rows']} x {row['length']:,}"
        print(f"| {row['source']} | {run} | {row['measured']:,.0f} | {row['planned']:,.0f} | {row['error']:+.0%} |")


if __name__ == "__main__":
    main()
