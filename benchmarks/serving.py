"""Many streams at once: the engine in process, `posttrain serve` over loopback, a loop over `generate`, `transformers
serve`. Tokens a second, and the time to the first token at 1, 8, 32 and 64 streams.

    python benchmarks/serving.py [--model FOLDER] [--sides engine,http,generate,transformers] [--threads N]

docs/sampler.md says what is measured. Every side has a process of its own, the same model in float32, the same prompts
and the same numbers of new tokens: the model's copy knows no end of a text.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from process import WorkerError, clean_environment, hardware, must_be_unchanged, run_measured, source_hash
from sft import HERE, same_allocator

SIDES = ("engine", "http", "generate", "transformers")
STREAMS = (1, 8, 32, 64)
PROMPT, ANSWER = (8, 240), (16, 96)  # tokens, uniform in their logarithm
WAY = {"temperature": 0.7, "top_p": 0.95}
ALONE = 8  # of a side that is asked for one stream at a time as many requests say enough
BAR = 3.0
WORDS = "the capital of France is Paris and a day has hours while rivers run to the sea where people count birds"


@dataclass(frozen=True)
class Wish:
    """A request: text, and how many tokens are wanted."""

    text: str
    num: int
    seed: int


def wishes(num: int, tokenizer: Any) -> list[Wish]:
    """Mixed lengths; no two begin alike, so that nobody gains by what is kept of another."""
    rng, made = random.Random(0), []
    for number in range(num):
        length, answer = (round(low * (high / low) ** rng.random()) for low, high in (PROMPT, ANSWER))
        text = f"{number} " + " ".join(rng.choice(WORDS.split()) for _ in range(length))
        ids = tokenizer(text, add_special_tokens=False).input_ids[:length]
        made.append(Wish(tokenizer.decode(ids), answer, number))
    return made


Stream = Callable[[Wish], AsyncIterator[int]]
"""Tokens, or pieces of text, as they come."""


Clock = Callable[[], float]
"""Processor seconds that the side has used."""


async def timed(stream: Stream, asked: list[Wish], streams: int, clock: Clock = time.process_time) -> dict[str, float]:
    """All requests, `streams` of them at a time."""
    gate, firsts, gaps = asyncio.Semaphore(streams), [], []

    async def one(wish: Wish) -> int:
        async with gate:
            began = last = time.perf_counter()
            count = 0
            async for num in stream(wish):
                now = time.perf_counter()
                (gaps if count else firsts).append(now - last)
                count, last = count + num, now
            assert count, f"no answer in {last - began:.1f} s"
            return count

    began, used = time.perf_counter(), clock()
    counts = await asyncio.gather(*(one(wish) for wish in asked))
    seconds, used = time.perf_counter() - began, clock() - used
    wanted = sum(wish.num for wish in asked)
    return {
        "requests": len(asked),
        "tokens": wanted,
        "pieces": sum(counts),
        "tokens_per_s": wanted / seconds,
        "tokens_per_cpu_s": wanted / used,
        "first_token_s_median": statistics.median(firsts),
        "first_token_s_p95": sorted(firsts)[int(0.95 * len(firsts))],
        "between_s_median": statistics.median(gaps) if gaps else 0.0,
    }


async def every(
    stream: Stream, asked: list[Wish], levels: tuple[int, ...], clock: Clock = time.process_time
) -> dict[str, Any]:
    """Warm up, then one line a level."""
    await timed(stream, asked[: len(asked) // 2], max(levels))
    return {str(n): await timed(stream, asked[:ALONE] if n == 1 else asked, n, clock) for n in levels}


def by_engine(folder: Path, num: int) -> dict[str, Any]:
    """LocalEngine, in this process."""
    import torch

    from posttrain.rollouts.sampling import Decoding, Request
    from posttrain.serve.doors import Asked
    from posttrain.serve.engine import LocalEngine, leave_a_core

    leave_a_core()
    engine = LocalEngine({"model": folder}, dtype=torch.float32)
    tokenizer = engine.model("model").tokenizer

    async def stream(wish: Wish) -> AsyncIterator[int]:
        ids = tuple(tokenizer(wish.text).input_ids)
        asked = Asked(Request(ids, (wish.seed,)), Decoding(wish.num, **WAY))
        async for piece in engine.stream("model", asked):
            yield len(piece.tokens)

    found = asyncio.run(every(stream, wishes(num, tokenizer), STREAMS))
    engine.close()
    return found


def by_generate(folder: Path, num: int) -> dict[str, Any]:
    """transformers, one request after the other; the time to the first token is of those that ask for one alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    async def stream(wish: Wish) -> AsyncIterator[int]:
        config = GenerationConfig(max_new_tokens=wish.num, do_sample=True, top_k=0, pad_token_id=0, **WAY)
        ids = torch.tensor([tokenizer(wish.text).input_ids])
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert out.shape[1] == ids.shape[1] + wish.num
        yield wish.num

    asked = wishes(num, tokenizer)
    asyncio.run(timed(stream, asked[:4], 1))
    found = asyncio.run(timed(stream, asked, 1))
    ones = [Wish(wish.text, 1, wish.seed) for wish in asked]
    first = asyncio.run(timed(stream, ones, 1))
    return {"1": found | {key: first[key] for key in ("first_token_s_median", "first_token_s_p95")}}


def by_server(folder: Path, num: int, command: list[str], more: dict[str, Any], levels: tuple[int, ...]) -> Any:
    """A server on a free port, asked by httpx."""
    import httpx
    from transformers import AutoTokenizer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=sys.stderr)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(base, process)

        async def go() -> dict[str, Any]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=base, timeout=300, limits=limits, trust_env=False) as client:

                async def stream(wish: Wish) -> AsyncIterator[int]:
                    body = {"prompt": wish.text, "max_tokens": wish.num, "stream": True, "seed": wish.seed, **WAY}
                    async with client.stream("POST", "/v1/completions", json=body | more) as answer:
                        if answer.status_code != 200:
                            raise WorkerError((await answer.aread()).decode()[:500])
                        async for line in answer.aiter_lines():
                            if line.startswith("data: {") and _has_text(json.loads(line[6:])):
                                yield 1

                used = psutil.Process(process.pid)
                asked = wishes(num, AutoTokenizer.from_pretrained(folder))
                return await every(stream, asked, levels, lambda: sum(used.cpu_times()[:2]))

        return asyncio.run(go())
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _has_text(event: dict[str, Any]) -> bool:
    return any(choice.get("text") for choice in event.get("choices", ()))


def _wait(base: str, process: subprocess.Popen[bytes]) -> None:
    import httpx

    for _ in range(600):
        try:
            if httpx.get(f"{base}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            raise WorkerError(f"the server ended with {process.returncode}")
        time.sleep(0.2)
    raise WorkerError("the server does not answer")


def work_here(side: str, folder: Path, num: int) -> dict[str, Any]:
    """The measured process of one side."""
    if side == "engine":
        return by_engine(folder, num)
    if side == "generate":
        return by_generate(folder, num)
    if side == "http":
        command = [sys.executable, "-m", "posttrain.cli", "serve", str(folder), "--served-model-name", "model"]
        command += ["--dtype", "float32", "--slots", "64"]
        return by_server(folder, num, command, {"model": "model", "ignore_eos": True}, STREAMS)  # type: ignore[no-any-return]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    command += ["--dtype", "float32"]
    return by_server(folder, num, command, {"model": str(folder)}, (1, 64))  # type: ignore[no-any-return]


def endless(source: Path, target: Path) -> Path:
    """The model without tokens that end an answer."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix in (".json", ".safetensors", ".jinja", ".model"):
            shutil.copy(file, target / file.name)
    for name in ("config.json", "generation_config.json"):
        if (target / name).exists():
            values = json.loads((target / name).read_text(encoding="utf-8"))
            (target / name).write_text(json.dumps(values | {"eos_token_id": None}), encoding="utf-8")
    return target


def measure(side: str, folder: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One fresh process of a side. A side that cannot run here is left out, with the reason."""
    out, log = work / f"{side}.json", work / f"{side}.log"
    command = [sys.executable, str(HERE / "serving.py"), "--worker", side, "--out", str(out), "--model", str(folder)]
    command += ["--requests", str(args.requests)]
    env = clean_environment(same_allocator())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if args.threads:
            env[name] = str(args.threads)
        else:
            del env[name]
    usage = run_measured(command, env=env, log=log)
    return {"levels": json.loads(out.read_text()), "foreign_cores": round(usage.foreign_cores, 2)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a model folder (the pocket base)")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="of every side; 0: as many as each takes by itself")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "serving.json")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def best(figures: dict[str, Any], side: str, name: str = "tokens_per_s") -> float:
    """At the level where the side is best."""
    return max((level[name] for level in figures.get(side, {}).get("levels", {}).values()), default=0.0)


def main() -> int:
    args = parse()
    if args.worker:
        args.out.write_text(json.dumps(work_here(args.worker, args.model, args.requests)), encoding="utf-8")
        return 0
    if args.model is None:
        from posttrain.pocket.base import base_folder

        args.model = base_folder()
    figures: dict[str, Any] = {}
    source = source_hash()
    with tempfile.TemporaryDirectory(prefix="posttrain-bench-") as name:
        folder = endless(args.model, Path(name) / "model")
        for side in args.sides.split(","):
            try:
                figures[side] = measure(side, folder, Path(name), args)
            except WorkerError as error:
                figures[side] = {"left_out": str(error).split("\n", 1)[-1][-600:]}
                print(f"{side} is left out: {error}", file=sys.stderr)
            for streams, level in figures[side].get("levels", {}).items():
                print(f"{side:13}{streams:>3} streams  " + "  ".join(f"{k} {v:.4g}" for k, v in level.items()))
    must_be_unchanged(source)
    base = best(figures, "generate") or float("nan")
    ratios = {f"{side}_vs_generate": round(best(figures, side) / base, 3) for side in figures}
    cpu = "tokens_per_cpu_s"  # what others do on the machine disturbs it less
    cpu_base = best(figures, "generate", cpu) or float("nan")
    ratios |= {f"{side}_{cpu}_vs_generate": round(best(figures, side, cpu) / cpu_base, 3) for side in figures}
    print(ratios)
    result = {
        "name": "serving",
        "command": f"python benchmarks/serving.py --requests {args.requests} --threads {args.threads}",
        "hardware": hardware() | {"threads_used": args.threads, "load_before": round(os.getloadavg()[0], 2)},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "ratios": ratios,
        "bars": {"engine_vs_generate": BAR, "http_vs_generate": BAR},
        "figures": figures,
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
