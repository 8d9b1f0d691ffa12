"""Supervised fine-tuning beside TRL 1.16 on the same CPU: speed and peak memory, as ratios.

    python benchmarks/sft.py --peer-python PEER/bin/python [--rows small,tiny,lora] [--repeats 3]

PEER is an environment: python -m venv PEER && PEER/bin/pip install torch==2.13.0 trl==1.16.0 peft datasets.
README.md says what is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sft_worker_posttrain
from posttrain import allocator
from process import WorkerError, clean_environment, hardware, must_be_unchanged, run_measured, source_hash

HERE = Path(__file__).parent
MAX_FOREIGN, MAX_RETRIES = 0.3, 2

# What `posttrain.allocator` sets where it finds no tcmalloc, said through the environment.
GLIBC_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(allocator.LARGEST_MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": "18446744073709551615",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "POSTTRAIN_ALLOCATOR": "system",  # nothing more than that on our side
}


def same_allocator() -> dict[str, str]:
    """What both sides of the same-allocator row are given: the allocator that posttrain would choose for itself."""
    library = allocator.find_tcmalloc()
    return {"LD_PRELOAD": str(library)} if library else GLIBC_KEPT


def chosen_allocator() -> str:
    """Its name, for the record: posttrain's own rows and the same-allocator row have it."""
    return Path(same_allocator().get("LD_PRELOAD", "glibc, told to keep freed memory")).name


@dataclass(frozen=True)
class Job:
    """One thing to measure. `steps` are timed, after `warmup` steps that are not."""

    key: str
    row: str
    model: str
    steps: int
    warmup: int
    bf16: bool = True
    packing: bool = True  # TRL's; posttrain packs by default
    lora: bool = False
    same_allocator: bool = False

    @property
    def is_ours(self) -> bool:
        return self.key.startswith("posttrain")


JOBS = (
    Job("posttrain_small_bf16", "small", "small", 40, 4),
    Job("trl_small_bf16_default", "small", "small", 12, 2, packing=False),
    Job("trl_small_bf16_packing", "small", "small", 30, 4),
    Job("posttrain_small_bf16_same_allocator", "small", "small", 40, 4, same_allocator=True),
    Job("trl_small_bf16_packing_same_allocator", "small", "small", 30, 4, same_allocator=True),
    Job("posttrain_small_lora", "lora", "small", 40, 4, lora=True),
    Job("trl_small_lora_default", "lora", "small", 12, 2, packing=False, lora=True),
    Job("posttrain_tiny_fp32", "tiny", "tiny", 60, 4, bf16=False),
    Job("trl_tiny_fp32_packing", "tiny", "tiny", 40, 4, bf16=False),
)


@dataclass(frozen=True)
class Ratio:
    """posttrain's figure over TRL's, and the bar it is held to: at least so fast, or at most so much memory."""

    key: str
    ours: str
    theirs: str
    bar: float
    figure: str = "tokens_per_s"

    @property
    def wants_less(self) -> bool:
        return self.figure == "peak_rss_mb"

    def is_met(self, value: float) -> bool:
        return value <= self.bar if self.wants_less else value >= self.bar


RATIOS = (
    Ratio("small_bf16_vs_trl_default", "posttrain_small_bf16", "trl_small_bf16_default", 5),
    Ratio("small_bf16_vs_trl_packing", "posttrain_small_bf16", "trl_small_bf16_packing", 1.7),
    Ratio(
        "small_bf16_vs_trl_packing_same_allocator",
        "posttrain_small_bf16_same_allocator",
        "trl_small_bf16_packing_same_allocator",
        1.3,
    ),
    Ratio("small_rss_vs_trl_default", "posttrain_small_bf16", "trl_small_bf16_default", 0.4, "peak_rss_mb"),
    Ratio("small_rss_vs_trl_packing", "posttrain_small_bf16", "trl_small_bf16_packing", 0.9, "peak_rss_mb"),
    Ratio("small_lora_vs_trl_default_lora", "posttrain_small_lora", "trl_small_lora_default", 5),
    Ratio("tiny_fp32_vs_trl_packing", "posttrain_tiny_fp32", "trl_tiny_fp32_packing", 1.4),
)


def measure(job: Job, *, peer: str, assets: Path, seed: int, work: Path) -> dict[str, Any]:
    """One fresh process of a job."""
    out = Path(tempfile.mkdtemp(prefix=f"{job.key}-", dir=work))
    model, data, steps = assets / job.model, assets / "rows.jsonl", job.steps + job.warmup
    if job.is_ours:
        command = sft_worker_posttrain.command(
            sys.executable, model=model, data=data, out=out, steps=steps, seed=seed, bf16=job.bf16, lora=job.lora
        )
    else:
        command = [peer, str(HERE / "sft_worker_trl.py"), "--model", str(model), "--data", str(data)]
        command += ["--out", str(out), "--steps", str(steps), "--warmup", str(job.warmup), "--seed", str(seed)]
        command += ["--bf16" if job.bf16 else "--no-bf16"]
        command += ["--packing"] * job.packing + ["--lora"] * job.lora
    env = clean_environment(same_allocator() if job.same_allocator else {}) | {"HF_HOME": str(work / "hub")}
    read = partial(sft_worker_posttrain.read, warmup=job.warmup) if job.is_ours else read_peer
    return run_and_read(command, out, env, read)


def read_peer(folder: Path) -> dict[str, Any]:
    """What a worker of the peer wrote."""
    found: dict[str, Any] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return found


def run_and_read(
    command: list[str], out: Path, env: dict[str, str], read: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """One fresh process; what it says of itself, and what the kernel says of it."""
    usage = run_measured(command, env=env, log=out.with_suffix(".log"))
    found = read(out)
    return found | {
        "tokens_per_s": found["tokens"] / found["seconds"],
        "peak_rss_mb": usage.peak_rss_mb,
        "foreign_cores": usage.foreign_cores,
        "wall_s": usage.wall_s,
    }


def measure_quietly(
    job: Any, *, retries: int, measure: Callable[..., dict[str, Any]] = measure, **where: Any
) -> dict[str, Any]:
    """A measurement with at most MAX_FOREIGN foreign cores; after `retries` more attempts, the quietest one."""
    tried: list[dict[str, Any]] = []
    while not tried or (tried[-1]["foreign_cores"] > MAX_FOREIGN and len(tried) <= retries):
        found = measure(job, **where)
        tried.append(found)
        print(
            f"  {job.key:<40} {found['tokens_per_s']:8.0f} tok/s {found['peak_rss_mb']:7.0f} MB "
            f"{found['foreign_cores']:5.2f} foreign cores {found['wall_s']:6.0f} s",
            flush=True,
        )
    return min(tried, key=lambda found: found["foreign_cores"])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the repeats of one job, with their range."""
    figures: dict[str, Any] = {
        name: statistics.median(run[name] for run in runs) for name in ("tokens_per_s", "peak_rss_mb")
    }
    speeds = [run["tokens_per_s"] for run in runs]
    return figures | {
        "tokens_per_s_range": [min(speeds), max(speeds)],
        "seconds_per_step": statistics.median(run["seconds"] / run["steps"] for run in runs),
        "timed_steps": runs[0]["steps"],
        "repeats": len(runs),
        "foreign_cores": [round(run["foreign_cores"], 3) for run in runs],
        "settings": runs[0]["settings"],
    }


def make_assets(folder: Path, models: list[str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "assets.py"), str(folder), "--models", ",".join(models)]
    subprocess.run(command, check=True, capture_output=True, env=clean_environment({}))
    made: dict[str, Any] = json.loads((folder / "assets.json").read_text(encoding="utf-8"))
    too_long = [name for name in made if made[name]["tokens"]["max"] > 1024]
    assert not too_long, f"rows over 1,024 tokens would be cut, which the two sides do differently: {too_long}"
    return made


def matmul_peak() -> dict[str, float]:
    command = [sys.executable, str(HERE / "matmul.py")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment({}))
    found: dict[str, float] = json.loads(done.stdout)
    return found


def shares_of_peak(figures: dict[str, Any], peak: dict[str, float], assets: dict[str, Any]) -> dict[str, float]:
    """6 x parameters x tokens/s over the matrix product peak of this very run; attention is not counted."""
    return {
        job.key: 6 * assets[job.model]["parameters"] * figures[job.key]["tokens_per_s"] / 1e9 / peak[kind]
        for job in JOBS
        if job.key in figures and not job.lora
        for kind in ("bf16" if job.bf16 else "fp32",)
    }


def compare(figures: dict[str, Any], wanted: Sequence[Ratio] = RATIOS) -> dict[str, float]:
    return {
        ratio.key: figures[ratio.ours][ratio.figure] / figures[ratio.theirs][ratio.figure]
        for ratio in wanted
        if ratio.ours in figures and ratio.theirs in figures
    }


def table(figures: dict[str, Any], ratios: dict[str, float], wanted: Sequence[Ratio] = RATIOS) -> str:
    lines = ["", f"{'median of repeats':<42}{'tok/s':>8}{'range':>16}{'s/step':>8}{'peak MB':>9}"]
    for key, row in figures.items():
        low, high = row["tokens_per_s_range"]
        spread = f"{low:.0f}-{high:.0f}"
        lines.append(
            f"{key:<42}{row['tokens_per_s']:>8.0f}{spread:>16}{row['seconds_per_step']:>8.2f}{row['peak_rss_mb']:>9.0f}"
        )
    lines += ["", f"{'ratio posttrain / TRL':<42}{'found':>8}{'bar':>9}"]
    for ratio in wanted:
        if ratio.key in ratios:
            value = ratios[ratio.key]
            bar = f"{'<=' if ratio.wants_less else '>='} {ratio.bar:g}"
            lines.append(f"{ratio.key:<42}{value:>8.2f}{bar:>9}  {'met' if ratio.is_met(value) else 'MISSED'}")
    return "\n".join(lines)


def versions(runs: dict[str, list[dict[str, Any]]], side: str) -> dict[str, str]:
    """Of the libraries on one side, 'posttrain' or 'trl', as its first process reported them."""
    found: dict[str, str] = next(runs[key][0]["versions"] for key in runs if key.startswith(side))
    return found


def run_jobs(args: argparse.Namespace, assets: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Every job once, then every job again: what changes on the machine meanwhile meets both sides."""
    jobs = [job for job in JOBS if job.row in args.rows]
    if args.smoke:
        jobs = [replace(job, steps=2, warmup=1) for job in jobs]
    runs: dict[str, list[dict[str, Any]]] = {job.key: [] for job in jobs}
    for repeat in range(args.repeats):
        print(f"repeat {repeat + 1} of {args.repeats}", flush=True)
        for job in jobs:
            retries = 0 if args.smoke else MAX_RETRIES
            runs[job.key].append(
                measure_quietly(job, retries=retries, peer=args.peer_python, assets=assets, seed=repeat, work=work)
            )
    return runs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment that has TRL")
    return parse_rows(parser, "sft", JOBS)


def parse_rows(parser: argparse.ArgumentParser, name: str, jobs: Sequence[Any]) -> argparse.Namespace:
    """The flags that say which jobs run, how often, and where the result goes."""
    known = list(dict.fromkeys(job.row for job in jobs))
    parser.add_argument("--rows", default=",".join(known), help="which of them, with commas between")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help=f"result file; left out, results/{name}.json, where all rows ran")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything: shows that it runs")
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    if unknown := set(args.rows) - set(known):
        parser.error(f"--rows has {', '.join(sorted(unknown))}, expected any of {', '.join(known)}")
    if args.smoke:
        args.repeats = 1
    elif args.output is None and set(known) <= set(args.rows):
        args.output = HERE / "results" / f"{name}.json"
    return args


def main() -> int:
    args, began, source = parse(), time.perf_counter(), source_hash()
    with tempfile.TemporaryDirectory(prefix="posttrain-bench-") as folder:
        work = Path(folder)
        models = sorted({job.model for job in JOBS if job.row in args.rows})
        assets = make_assets(work / "assets", models)
        peak = matmul_peak()
        try:
            runs = run_jobs(args, work / "assets", work)
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    must_be_unchanged(source)
    figures = {key: summary(found) for key, found in runs.items()}
    ratios, shares = compare(figures), shares_of_peak(figures, peak, assets)
    print(f"\nallocator of posttrain and of the same-allocator rows: {chosen_allocator()}")
    print(table(figures, ratios))
    print(f"\nmatrix product peak: {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16; share reached:")
    print("\n".join(f"  {key:<40} {share:6.1%}" for key, share in shares.items()))
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes" + ("; a SMOKE run, no figures" if args.smoke else ""))
    figures |= {"matmul_gflops": peak, "share_of_matmul_peak": shares, "assets": assets}
    write_result(args, "sft", runs, ratios, figures)
    return 0


def write_result(
    args: argparse.Namespace,
    name: str,
    runs: dict[str, list[dict[str, Any]]],
    ratios: dict[str, float],
    figures: dict[str, Any],
    *,
    wanted: Sequence[Ratio] = RATIOS,
    more: dict[str, Any] | None = None,
) -> None:
    """The JSON of a run that was no smoke run: command, hardware, versions, ratios and their bars, figures."""
    if not args.output or args.smoke:
        return
    result = {
        "name": name,
        "command": f"python benchmarks/{name}.py --peer-python PEER/bin/python --rows {','.join(args.rows)} "
        f"--repeats {args.repeats}",
        "hardware": hardware(),
        "versions": versions(runs, "posttrain"),
        "peer": {"name": "trl", "versions": versions(runs, "trl")},
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
        "bars": {ratio.key: ratio.bar for ratio in wanted if ratio.key in ratios},
        **(more or {}),
        "figures": figures | {"allocator": chosen_allocator()},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
