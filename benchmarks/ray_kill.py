"""What the death of a worker or of a node costs a training on Ray, and that it changes nothing.

    python benchmarks/ray_kill.py            (about five minutes)

`posttrain sft` on the embedded model and data, as two processes on a Ray cluster of this machine with two nodes of one
processor each: left alone, with a worker killed (SIGKILL) after step `KILL_AT`, and with a node killed, for which
another one is added as soon as the command has told of the loss. Seconds since the kill: `told` is the command's
sentence, `begun` the workers' new start, `step` the first optimiser step after it. `redone`: steps that were done
before the kill and had to be done again. `difference`: of any weight from those that one process makes of the same
steps, at the most.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
STEPS, SAVE, KILL_AT = 24, 5, 13
WORDS = ["--dataset", "pocket", "--max-steps", str(STEPS), "--save-steps", str(SAVE), "--logging-steps", "1"]
WORDS += ["--num-preview-samples", "0", "--per-device-train-batch-size", "8"]
MEMORY = {"object_store_memory": 80 * 2**20}
ADDRESS = re.compile(r"\d+(\.\d+){3}")


@contextmanager
def cluster() -> Iterator[Any]:
    """Two nodes."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "OMP_NUM_THREADS": "1"}
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **MEMORY})
    try:
        made.add_node(num_cpus=1, **MEMORY)
        yield made
    finally:
        made.shutdown()


def kill(nodes: Any, what: str) -> None:
    """The worker on the second node, or that node."""
    (second,) = nodes.worker_nodes
    if what == "node":
        nodes.remove_node(second, allow_graceful=False)
        return
    raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
    for child in raylet.children():
        if "RayTrainWorker" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGKILL)


def run(nodes: Any, out: Path, what: str) -> dict[str, Any]:
    """One training, with what is killed in it."""
    began = time.perf_counter()
    words = [*WORDS, "--output-dir", str(out), "--launcher", "ray", "--num-processes", "2", "--max-restarts", "1"]
    command = [sys.executable, "-u", "-m", "posttrain.cli", "sft", *words]
    environment = {**os.environ, "RAY_ADDRESS": nodes.address}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    told: dict[str, Any] = {}
    killed, last = 0.0, 0
    for line in child.stdout:
        now = time.perf_counter()
        step = int(found[1]) if (found := re.match(r"step (\d+)/", line)) else 0
        if step and "first_step_s" not in told:
            told["first_step_s"] = now - began
        if "starting all again" in line:
            told |= {"told_s": now - killed, "sentence": ADDRESS.sub("ADDRESS", line.strip())}
            if what == "node":
                nodes.add_node(num_cpus=1, **MEMORY)
        elif "restart 1: going on" in line:
            told["begun_s"] = now - killed
        elif step and "begun_s" in told and "step_s" not in told:
            told |= {"step_s": now - killed, "redone": last + 1 - step}
        last = step or last
        if step == KILL_AT and what != "nothing" and not killed:
            kill(nodes, what)
            killed = time.perf_counter()
    if child.wait() or (what != "nothing" and "step_s" not in told):
        sys.exit(f"the run ended with {child.returncode}: {told}")
    return told | {"whole_s": time.perf_counter() - began}


def difference(ours: Path, theirs: Path) -> float:
    """The largest of any weight."""
    from safetensors.torch import load_file

    one, other = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def main() -> None:
    from process import hardware, must_be_unchanged, source_hash

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "ray_kill.json")
    parser.add_argument("--kill", nargs="+", default=["nothing", "worker", "node"], help="What is killed, in turn.")
    asked = parser.parse_args()
    before, rows = source_hash(), {}
    with tempfile.TemporaryDirectory() as made, cluster() as nodes:
        place, began = Path(made), time.perf_counter()
        alone = [*WORDS, "--output-dir", str(place / "one"), "--gradient-accumulation-steps", "2"]
        subprocess.run([sys.executable, "-m", "posttrain.cli", "sft", *alone], check=True, stdout=subprocess.DEVNULL)
        rows["one process"] = {"whole_s": time.perf_counter() - began}
        for what in asked.kill:
            out = place / what
            rows[what] = run(nodes, out, what) | {"difference": difference(out, place / "one")}
            print(what, rows[what], flush=True)
    must_be_unchanged(before)
    for row in rows.values():
        row |= {name: round(value, 2) for name, value in row.items() if name.endswith("_s")}
    found = {
        "command": f"python benchmarks/ray_kill.py --kill {' '.join(asked.kill)}",
        "steps": STEPS,
        "save_steps": SAVE,
        "killed_after": KILL_AT,
    }
    told = json.dumps(found | {"hardware": hardware() | {"threads_used": 1}, "runs": rows}, indent=1)
    asked.output.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
