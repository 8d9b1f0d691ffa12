"""A training verb in the workers of a real Ray cluster of this machine, two nodes of one processor each; what needs no
cluster is tested without one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from posttrain.errors import TrainError
from posttrain.recipes import ray_train_told
from posttrain.recipes.ray_cluster import quiet_ray
from posttrain.recipes.ray_train_desk import Desk, Lines, Word
from posttrain.recipes.ray_train_told import Told, cause
from posttrain.recipes.ray_train_worker import Job, versions, work
from posttrain.recipes.sft_config import SftConfig
from posttrain.train import distributed
from posttrain.train.interrupt import ASKED

ray = pytest.importorskip("ray", reason="needs Ray Train: pip install 'posttrain[ray]'")
pytest.importorskip("ray.train.torch", reason="needs Ray Train: pip install 'posttrain[ray]'")
STEPS, KILL_AT = 150, 8
REWARD = '''
def score(rollout):
    """Something that differs within a group: how often a letter was said."""
    return sum(message.content.count("s") for message in rollout.messages) / 4
'''
MEMORY = {"object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """The cluster; nobody is connected to it."""
    quiet_ray()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **MEMORY})
    try:
        made.add_node(num_cpus=1, **MEMORY)
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def words(base: Path, rows: Path) -> Callable[..., list[str]]:
    """The command line of a small run."""

    def made(out: Path, **changes: object) -> list[str]:
        keys = {"model": base, "dataset": rows, "output_dir": out, "max_steps": STEPS, "max_length": 128} | {
            "learning_rate": 1e-2,
            "save_steps": 5,
            "logging_steps": 1,
            "num_preview_samples": 1,
            **changes,
        }
        return ["sft", *(word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", str(value)))]

    return made


@pytest.fixture(scope="module")
def one(words: Any, posttrain: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The weights that one process makes of the same steps, never interrupted."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = posttrain(*words(out, gradient_accumulation_steps=2, save_steps=0))
    assert done.returncode == 0, done.stderr
    return load_file(out / "model.safetensors")


def start(nodes: Any, words: list[str]) -> "subprocess.Popen[str]":
    """The command, with the cluster's address in its environment."""
    environment = {**os.environ, "RAY_ADDRESS": nodes.address, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    environment |= {"POSTTRAIN_ALLOCATOR": "system", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    command = [sys.executable, "-m", "posttrain.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def kill_worker(node: Any) -> None:
    """The process of a training that this node holds ends as by the kernel's own hand."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    (worker,) = [child for child in raylet.children() if "RayTrainWorker" in " ".join(child.cmdline())]
    worker.send_signal(signal.SIGKILL)


def assert_same(out: Path, one: Any) -> None:
    found = load_file(out / "model.safetensors")
    assert found.keys() == one.keys()
    for name, weight in one.items():
        assert (found[name] - weight).abs().max() <= 1e-5, name


def test_two_nodes_equal_one_process_though_a_worker_is_killed(
    nodes: Any, words: Any, one: Any, process: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    child = start(nodes, words(out, launcher="ray", num_processes=2, max_restarts=1))
    process.wait_for_step(out, KILL_AT, child)
    kill_worker(nodes.head_node)
    said, wrong = child.communicate(timeout=240)
    assert child.returncode == 0, wrong
    assert not wrong
    assert "starting all again, restart 1 of 1" in said
    assert "restart 1: going on from the last checkpoint" in said
    assert f"finished after {STEPS} steps" in said
    assert "ray" not in said.replace(str(tmp_path), "").replace("posttrain[ray]", "").lower()
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    logged = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, STEPS + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # no mark is left beside it
    assert_same(out, one)


def test_rollouts_of_two_nodes_are_those_of_one_process(
    nodes: Any, base: Path, rows: Path, inside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    words = ["grpo", "--model", base, "--dataset", rows, "--reward", f"{tmp_path / 'rewards.py'}:score"]
    words += ["--max-steps", "6", "--num-prompts", "6", "--num-generations", "4", "--max-completion-length", "12"]
    words += ["--num-mini-batches", "2", "--micro-batch-tokens", "96", "--allow-truncated", "--beta", "0.05"]
    words += ["--no-bf16", "--learning-rate", "1e-3"]
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    for name, flags in (("one", ()), ("two", ("--launcher", "ray", "--num-processes", 2))):
        done = inside(*words, "--output-dir", tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert_same(tmp_path / "two", one)
    before = load_file(base / "model.safetensors")
    assert any(
        (one[name] - before[name]).abs().max() > 1e-3 for name in before if one[name].shape == before[name].shape
    )
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


def test_without_restarts_a_kill_is_one_sentence_and_the_checkpoint_goes_on_anywhere(
    nodes: Any, words: Any, one: Any, process: Any, inside: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    child = start(nodes, words(out, launcher="ray", num_processes=2))
    process.wait_for_step(out, KILL_AT, child)
    (other,) = nodes.worker_nodes
    kill_worker(other)
    _, wrong = child.communicate(timeout=240)
    assert child.returncode == 2
    (line,) = wrong.splitlines()
    assert line.startswith("error: ")
    assert "worker" in line
    assert "last checkpoint is whole: go on with --resume-from-checkpoint, or start with --max-restarts" in line
    assert list(out.glob("checkpoint-*[0-9]"))
    done = inside(*words(out, gradient_accumulation_steps=2, save_steps=5), "--resume-from-checkpoint")
    assert done.returncode == 0, done.stderr
    assert_same(out, one)


def test_room_is_counted_first(
    nodes: Any, words: Any, inside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    done = inside(*words(tmp_path / "run", launcher="ray", num_processes=3))
    assert done.returncode == 2
    assert "3 workers with 1 CPU each" in done.stderr
    assert "room for 2 of them" in done.stderr
    assert "lower num_processes or worker_cpus" in done.stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster can be reached at 127.0.0.1:1"),
        ("ray://head:10001", "RAY_ADDRESS is 'ray://head:10001', expected HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there(
    words: Any, inside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    done = inside(*words(tmp_path / "run", launcher="ray", num_processes=2))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_earlier_run_is_refused_before_the_cluster_is_asked(words: Any, inside: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    done = inside(*words(tmp_path, launcher="ray", num_processes=2))
    assert done.returncode == 2
    assert "holds an earlier run" in done.stderr


def test_worker_cpus_need_ray(words: Any, inside: Any, tmp_path: Path) -> None:
    done = inside(*words(tmp_path, launcher="torchrun", worker_cpus=2))
    assert "worker_cpus needs launcher ray" in done.stderr


class Beside:
    """The desk as Ray would hand it to a worker, without Ray."""

    def __init__(self) -> None:
        self.desk = Desk()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.desk, name))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path, rows: Path) -> Iterator[Any]:
    """`worker(desk, **changes)`: the only process of a training on Ray, in this one; `attempt` is the desk's."""
    monkeypatch.setattr(ray, "get", lambda found: found)
    names = {"WORLD_SIZE": "1", "RANK": "0", "TORCHELASTIC_RUN_ID": "", "TORCHELASTIC_RESTART_COUNT": "0"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / ".run-mark"
    mark.touch()
    keys = {"model": str(base), "dataset": str(rows), "output_dir": "run", "max_steps": 4, "max_length": 128}
    keys |= {"save_steps": 2, "logging_steps": 1, "num_preview_samples": 0, "launcher": "ray"}

    def run(desk: Beside, *, job: dict[str, Any] | None = None, **changes: Any) -> list[Word]:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        given = {"config": SftConfig(**(keys | changes)), "place": tmp_path, "mark": mark, "versions": versions()}
        try:
            work({"job": Job(**(given | (job or {}))), "desk": desk})
        finally:
            distributed.stop()
        return desk.desk.take()

    try:
        yield run
    finally:
        ASKED.clear()


def kinds(words: list[Word]) -> list[str]:
    return [word.kind for word in words if word.kind not in ("out", "err")]


def test_a_worker_tells_what_it_prints_and_how_it_ended(worker: Any, tmp_path: Path) -> None:
    words = worker(Beside())
    assert kinds(words) == ["begun", "ended"]
    assert words[-1].text == "0"
    said = "".join(word.text for word in words if word.kind == "out")
    assert "step 4/4" in said
    assert "finished after 4 steps" in said
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_what_the_input_got_wrong_is_told_and_not_tried_again(worker: Any) -> None:
    desk = Beside()
    words = worker(desk, dataset="none.jsonl")
    assert kinds(words) == ["begun", "failed"]
    assert "none.jsonl: no such file" in words[-1].text
    assert desk.desk.begin() is None


def test_a_second_attempt_goes_on_from_the_checkpoint_of_the_first(worker: Any, tmp_path: Path) -> None:
    desk = Beside()
    worker(desk, max_steps=4, lr_scheduler_type="constant", warmup_ratio=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["launch"] == ".run-mark"
    desk.desk.is_over = False
    words = worker(desk, max_steps=4, lr_scheduler_type="constant", warmup_ratio=0)
    said = "".join(word.text for word in words if word.kind == "out")
    assert "restart 1: going on from the last checkpoint" in said
    assert "step 1/4" not in said


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"mark": Path("/nowhere/mark")}, "does not see what this command has written to /nowhere"),
        ({"place": Path("/nowhere")}, "cannot enter /nowhere"),
        ({"versions": {"torch": "1.0"}}, "this command 1.0: install the same one"),
    ],
)
def test_a_worker_that_is_not_as_the_command_is(worker: Any, job: dict[str, Any], said: str) -> None:
    (word,) = worker(Beside(), job=job)
    assert word.kind == "failed"
    assert said in word.text


def test_a_training_outside_the_main_thread_stops_when_it_is_asked(worker: Any, tmp_path: Path) -> None:
    ASKED.set()
    found: list[Word] = []
    thread = threading.Thread(target=lambda: found.extend(worker(Beside(), max_steps=400)))
    thread.start()
    thread.join()
    assert found[-1] == Word("ended", "130")
    assert "go on with:\n  posttrain sft" in "".join(word.text for word in found)
    assert list((tmp_path / "run").glob("checkpoint-*1"))


def test_nothing_begins_after_a_stop() -> None:
    desk = Desk()
    assert desk.begin() == 0
    desk.stop()
    assert desk.begin() is None


def test_lines_are_told_whole() -> None:
    told: list[tuple[str, str]] = []
    stream = Lines("out", lambda kind, text: told.append((kind, text)))
    print("one\ntwo", end="", file=stream)
    assert told == [("out", "one\n")]
    stream.end()
    assert told[1:] == [("out", "two")]


class HealthError(Exception):
    """As Ray's, which wraps what it has found."""

    def __init__(self, found: Exception) -> None:
        super().__init__(f"node_ip='10.0.0.2'\n{found}")
        self.health_check_failure = found


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({0: distributed.Lost("x"), 1: HealthError(RuntimeError("its node has died. Node Id"))}, "its machine is gone"),
        ({1: HealthError(RuntimeError("worker process has died; OOM killer"))}, "its process was killed"),
        ({1: HealthError(RuntimeError("the node running low on memory"))}, "ran out of memory"),
        ({1: HealthError(type("ActorUnavailableError", (Exception,), {})())}, "does not answer"),
        ({0: distributed.Lost("x"), 1: KeyError("y")}, "worker 1 failed with KeyError: 'y'"),
        ({0: distributed.Lost("x")}, "a worker or its machine is gone"),
    ],
)
def test_causes_are_plain(errors: dict[int, Exception], said: str) -> None:
    assert said in cause(errors)
    assert ("worker 1 on 10.0.0.2" in cause(errors)) == any(isinstance(error, HealthError) for error in errors.values())


def test_deaths_are_counted_and_a_wait_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train_told, "PATIENCE_S", 0.0)
    said: list[str] = []
    told = Told(SimpleNamespace(max_restarts=1, num_processes=2), said.append)
    told.add([Word("begun", "0"), Word("died", "worker 1 died: so")])
    told.add([])
    assert said == [
        "worker 1 died: so; starting all again, restart 1 of 1",
        "waiting for 2 workers to start: the cluster may be busy, or have lost a machine",
    ]
    told.add([Word("begun", "1"), Word("died", "worker 0 died: too")])
    error = told.error(None)
    assert isinstance(error, TrainError)
    assert str(error).startswith("worker 0 died: too, after 1 restart. What was saved")
    assert len(said) == 2


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_who_listens_ends_with_the_training(monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None) -> None:
    """A thread that went on would call Ray after it is let go, which ends the process at once and without a word."""
    monkeypatch.setattr(ray, "get", lambda found: found)
    before, desk, heard = threading.active_count(), Beside(), threading.Event()
    told = Told(SimpleNamespace(max_restarts=0, num_processes=2), print)
    monkeypatch.setattr(told, "add", lambda words: heard.set() if any(words) else None)
    desk.desk.tell("out", "step 1\n")
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        told.listening(desk, lambda: True),
    ):
        assert heard.wait(60)
        if error:
            raise error
    assert threading.active_count() == before
    assert desk.desk.is_asked_to_stop


def test_a_terminal_that_is_gone_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda found: found)
    desk, stopped = Beside(), threading.Event()
    monkeypatch.setattr(desk.desk, "stop", stopped.set)
    desk.desk.tell("out", "step 1\n")
    told = Told(SimpleNamespace(max_restarts=0, num_processes=2), print)
    monkeypatch.setattr("builtins.print", lambda *_, **__: (_ for _ in ()).throw(BrokenPipeError))
    with pytest.raises(BrokenPipeError), told.listening(desk, lambda: False):
        assert stopped.wait(60)


def test_no_room_within_the_time() -> None:
    told = Told(SimpleNamespace(max_restarts=0, num_processes=2), print)
    late = type("WorkerGroupStartupTimeoutError", (Exception,), {})()
    error = told.error(SimpleNamespace(controller_failure=late))  # type: ignore[arg-type]
    assert "no room for 2 workers within ddp_timeout" in str(error)
