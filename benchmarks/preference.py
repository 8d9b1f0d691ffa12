"""Preference training beside TRL 1.16 on the same CPU: DPO, KTO, ORPO and reward models, speed and peak memory.

    python benchmarks/preference.py [--peer-python PEER/bin/python] [--rows dpo,curve,kto,orpo,reward] [--repeats 3]

PEER is an environment with trl==1.16.0 (see sft.py); left out, the interpreter that runs this. README.md says what is
measured.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import preference_worker_posttrain
from assets import MAX_WORDS, MEDIAN_WORDS, SPREAD, Language
from process import WorkerError, clean_environment, must_be_unchanged, source_hash
from sft import (
    HERE,
    MAX_RETRIES,
    Ratio,
    chosen_allocator,
    compare,
    make_assets,
    measure_quietly,
    parse_rows,
    read_peer,
    run_and_read,
    same_allocator,
    summary,
    table,
    write_result,
)

MODEL = "small"
NUM_PAIRS, SEED = 192, 0
TURN_WORDS = 6  # about what the template writes around a question, in words
BATCH = 8  # TRL's default: pairs a step, answers a step for KTO


@dataclass(frozen=True)
class Job:
    """One thing to measure: a verb on pairs whose prompts have so many hundredths of prompt and answer. posttrain
    trains for one epoch, in steps of `rows` packed rows; TRL for `steps` steps after `warmup` that are not timed."""

    key: str
    row: str
    verb: str
    percent: int = 50
    rows: int = 2
    steps: int = 5
    warmup: int = 1
    most_repeats: int = 9
    precompute: bool = False
    same_allocator: bool = False

    @property
    def is_ours(self) -> bool:
        return self.key.startswith("posttrain")


def both(name: str, row: str, **settings: Any) -> list[Job]:
    """A job of posttrain and its twin of TRL."""
    return [Job(f"posttrain_{name}", row, **settings | {"warmup": 2}), Job(f"trl_{name}", row, **settings)]


# Rows of 1,024 tokens: as many a step as hold about BATCH pairs.
CURVE = {10: 2, 30: 2, 50: 2, 70: 2, 90: 1}
TOKENS = "prompt and chosen plus prompt and rejected, without padding; the time includes the reference's pass"
JOBS = (
    *both("dpo_50", "dpo", verb="dpo"),
    *[
        job
        for percent, rows in CURVE.items()
        if percent != 50
        for job in both(f"dpo_{percent}", "curve", verb="dpo", percent=percent, rows=rows, steps=4, most_repeats=1)
    ],
    *both("reward", "reward", verb="reward", steps=8, most_repeats=2),
    *both("kto", "kto", verb="kto", rows=1, steps=10, most_repeats=2),
    *both("orpo", "orpo", verb="orpo", steps=6, most_repeats=2),
    Job("trl_dpo_50_precompute", "dpo", "dpo", most_repeats=1, precompute=True),
    Job("trl_dpo_50_same_allocator", "dpo", "dpo", most_repeats=1, same_allocator=True),
)

RATIOS = (
    Ratio("dpo_small_vs_trl", "posttrain_dpo_50", "trl_dpo_50", 4),
    Ratio("dpo_small_rss_vs_trl", "posttrain_dpo_50", "trl_dpo_50", 0.5, "peak_rss_mb"),
    Ratio("reward_small_vs_trl", "posttrain_reward", "trl_reward", 2),
    Ratio("kto_small_vs_trl", "posttrain_kto", "trl_kto", 2),
    Ratio("orpo_small_vs_trl", "posttrain_orpo", "trl_orpo", 3),
)

# Beside what else DPO is set: TRL asking the reference beforehand, and TRL under the allocator posttrain would choose.
ALSO = ("trl_dpo_50_precompute", "trl_dpo_50_same_allocator")


def write_pairs(path: Path, num: int, percent: int) -> None:
    """Pairs of invented text. The lengths of prompt and answer together are those of sft.py's conversations and the
    same at every `percent`; either answer is up to 30 % longer or shorter than its share."""
    language, rng = Language(SEED), random.Random(SEED + 1)
    lines = []
    for _ in range(num):
        words = min(MAX_WORDS, max(8, round(MEDIAN_WORDS * rng.lognormvariate(0, SPREAD))))
        asked = max(1, round(words * percent / 100) - TURN_WORDS)
        answers = [max(2, round(words * (1 - percent / 100) * rng.uniform(0.7, 1.3))) for _ in range(2)]
        texts = [language.text(min(count, MAX_WORDS - asked)) for count in answers]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in texts)
        prompt = [{"role": "user", "content": language.text(asked)}]
        lines.append(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def measure(job: Job, *, peer: str, assets: Path, seed: int, work: Path) -> dict[str, Any]:
    """One fresh process of a job, with caches of its own."""
    out = Path(tempfile.mkdtemp(prefix=f"{job.key}-", dir=work))
    model, data = assets / MODEL, assets / f"pairs_{job.percent}.jsonl"
    if job.is_ours:
        command = preference_worker_posttrain.command(
            sys.executable, verb=job.verb, model=model, data=data, out=out, seed=seed, accumulation=job.rows
        )
        read: Callable[[Path], dict[str, Any]] = partial(
            preference_worker_posttrain.read, verb=job.verb, warmup=job.warmup
        )
    else:
        command = [peer, str(HERE / "preference_worker_trl.py"), "--verb", job.verb, "--model", str(model)]
        command += ["--data", str(data), "--out", str(out), "--steps", str(job.steps + job.warmup)]
        command += ["--warmup", str(job.warmup), "--seed", str(seed), *["--precompute"] * job.precompute]
        read = read_trl
    env = clean_environment(same_allocator() if job.same_allocator else {})
    env |= {"HF_HOME": str(work / "hub"), "POSTTRAIN_CACHE": str(out.parent / f"{out.name}.cache")}
    return run_and_read(command, out, env, read)


def read_trl(folder: Path) -> dict[str, Any]:
    """What TRL's worker wrote; where the reference was asked beforehand, its share of that time is added."""
    found = read_peer(folder)
    share = found["steps"] * found["settings"]["batch"] / found.get("reference_pairs", 1)
    asked = found.get("reference_seconds", 0.0) * share
    return found | {"seconds": found["seconds"] + asked, "reference_seconds": asked}


def figures_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one job; `tokens_per_s` has the reference's pass in its time, of which the other figure is free."""
    found = {
        "tokens_per_s_without_reference": [run["tokens"] / (run["seconds"] - run["reference_seconds"]) for run in runs],
        "reference_share_of_time": [run["reference_seconds"] / run["seconds"] for run in runs],
    }
    found |= {name: [run[name] for run in runs] for name in ("prompt_share", "samples_per_step") if name in runs[0]}
    return summary(runs) | {name: round(statistics.median(values), 4) for name, values in found.items()}


def curve(figures: dict[str, Any]) -> list[dict[str, float]]:
    """The ratio of DPO's speeds against the prompt's share of the useful tokens."""
    points = []
    for percent in CURVE:
        ours, theirs = figures.get(f"posttrain_dpo_{percent}"), figures.get(f"trl_dpo_{percent}")
        if ours and theirs:
            ratio = ours["tokens_per_s"] / theirs["tokens_per_s"]
            points.append({"prompt_share": round(ours["prompt_share"], 3), "ratio": round(ratio, 3)})
    return points


def run_jobs(args: argparse.Namespace, assets: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Every job once, then again those that are to be repeated; none begins after `--minutes`."""
    jobs = [job for job in JOBS if job.row in args.rows]
    if args.smoke:
        jobs = [replace(job, steps=1) for job in jobs]
    runs: dict[str, list[dict[str, Any]]] = {job.key: [] for job in jobs}
    began = time.perf_counter()
    for repeat in range(args.repeats):
        print(f"repeat {repeat + 1} of {args.repeats}", flush=True)
        for job in jobs:
            if repeat >= job.most_repeats or time.perf_counter() - began > 60 * args.minutes:
                continue
            where = {"peer": args.peer_python, "assets": assets, "seed": repeat, "work": work}
            runs[job.key].append(measure_quietly(job, retries=args.retries, measure=measure, **where))
    return {key: found for key, found in runs.items() if found}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of an environment that has TRL")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--retries", type=int, default=MAX_RETRIES, help="of a run that was disturbed")
    args = parse_rows(parser, "preference", JOBS)
    args.retries = 0 if args.smoke else args.retries
    return args


def main() -> int:
    args, began, source = parse(), time.perf_counter(), source_hash()
    with tempfile.TemporaryDirectory(prefix="posttrain-bench-") as folder:
        work = Path(folder)
        made = make_assets(work / "assets", [MODEL])
        for percent in CURVE:
            write_pairs(work / "assets" / f"pairs_{percent}.jsonl", 3 * BATCH if args.smoke else NUM_PAIRS, percent)
        try:
            runs = run_jobs(args, work / "assets", work)
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    must_be_unchanged(source)
    figures = {key: figures_of(found) for key, found in runs.items()}
    ratios = compare(figures, RATIOS)
    print(f"\nallocator of posttrain: {chosen_allocator()}")
    print(table(figures, ratios, RATIOS))
    also = compare(figures, [Ratio(f"dpo_small_vs_{key}", "posttrain_dpo_50", key, 0) for key in ALSO])
    print("\n".join(f"{name:<42}{ratio:>8.2f}" for name, ratio in also.items()))
    for point in curve(figures):
        print(f"dpo, prompt's share {point['prompt_share']:.2f}: {point['ratio']:.2f} times TRL's tokens a second")
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes" + ("; a SMOKE run, no figures" if args.smoke else ""))
    more: dict[str, Any] = {"tokens": TOKENS, "dpo_gain_by_prompt_share": curve(figures)}
    more["minutes"] = args.minutes if math.isfinite(args.minutes) else None
    more["ratios_without_bar"] = {name: round(ratio, 3) for name, ratio in also.items()}
    data = {"parameters": made[MODEL]["parameters"], "pairs": NUM_PAIRS}
    write_result(args, "preference", runs, ratios, {**figures, **data}, wanted=RATIOS, more=more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
