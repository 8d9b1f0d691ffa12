"""Verbs over a real Ray cluster of this machine: a head without processors, and two nodes of one worker each.

A worker is killed in the middle of a job, and so is a node: nothing is lost, nothing is done twice, and the file is the
one that a single process writes.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, PosttrainError
from posttrain.recipes import ray_line, ray_models
from posttrain.recipes.ray_cluster import Workers, cluster, quiet_ray
from posttrain.recipes.ray_jobs import Held, Job
from posttrain.recipes.ray_worker import Worker

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'posttrain[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own, in a process that it shares
Inside = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[Any]:
    """The cluster, with this process connected to its head."""
    quiet_ray()
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    # The classes below travel by value: workers cannot import a test.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    memory = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **memory)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny random model with a chat template."""
    folder: Path = tiny.save_base(tmp_path_factory.mktemp("chat"))
    return folder


class Killed(Worker):
    """The first worker that has begun a job ends as by the kernel's own hand."""

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = ray_models.HeldModel(self.held, self.cpus)
        mark = Path(os.environ.get("KILL_MARK", self.held.place)) / "killed"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return self._model
        os.kill(os.getpid(), signal.SIGKILL)


class Echo:
    """A model that says where it is asked. The first to be asked tells on which node, and waits for a file `go`."""

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def echo(self, _: int, items: Sequence[str]) -> list[tuple[str, str]]:
        here = ray.get_runtime_context().get_node_id()
        try:
            with self.mark.open("x") as file:
                file.write(here)
        except FileExistsError:
            return [(item, here) for item in items]
        while not self.mark.with_name("go").exists():
            time.sleep(0.05)
        return [(item, here) for item in items]

    def told(self) -> tuple[dict[str, int], list[Any]]:
        return {}, []


class Echoing(Worker):
    """A worker without torch."""

    @property
    def model(self) -> Any:
        self._model = self._model or Echo(self.held.place)
        return self._model


def test_a_killed_worker_changes_no_byte(
    inside: Inside, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"say {n} twice"}) + "\n" for n in range(24)))
    words = ["sample", "--model", chat, "--dataset", prompts, "--num-samples", "3", "--max-new-tokens", "8"]
    words += ["--batch-size", "6", "--seed", "3"]
    assert inside(*words, "--output", tmp_path / "one.jsonl").returncode == 0
    monkeypatch.setattr(ray_line, "Worker", Killed)
    spread = ["--output", tmp_path / "many.jsonl", "--ray", "auto", "--num-workers", "2"]
    done = inside(*words, *spread)
    assert done.returncode == 0, done.stderr
    assert (chat / "killed").exists()
    assert "since their worker died" in done.stdout
    assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert [path.name for path in tmp_path.glob("many*")] == ["many.jsonl"]
    # And once more: nothing is missing, so no worker is started.
    monkeypatch.setattr(ray_line, "Worker", None)
    assert "24 prompts have their answers already" in inside(*words, *spread).stdout


def test_room_is_counted_before_anything_is_started() -> None:
    with pytest.raises(ConfigError, match=r"asked for 3 workers with 1 CPU each, .* has room for 2 of them \(2 CPU"):
        cluster("auto", Workers(3), print).__enter__()
    # Two nodes of one core have two cores, and no room for a worker of two.
    with pytest.raises(ConfigError, match=r"1 worker with 2 CPU each, .* has room for 0"):
        cluster("auto", Workers(1, cpus=2), print).__enter__()
    with pytest.raises(ConfigError, match="1 CPU and 1 GPU"):
        cluster("auto", Workers(1, gpus=1), print).__enter__()


def test_silence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is waited for, and since when."""
    monkeypatch.setattr(ray_line, "Worker", Echoing)
    monkeypatch.setattr(ray_line, "SILENCE_S", 0.1)
    monkeypatch.setattr(ray_line, "WATCH_S", 0.1)
    said: list[str] = []
    told = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if "waiting for" in text:
            told.set()

    line = ray_line.Line(Held("echo", str(tmp_path / "first")), Workers(1), say)
    number = line.put(Job("echo", ["row"]))
    assert told.wait(120), said
    (tmp_path / "go").touch()
    assert [done.results[0][0] for done in line.wait([number])] == ["row"]
    line.close()


def test_a_line_that_is_left_in_the_middle_of_a_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of Ray Data's that went on would connect this process to Ray again after it has let go."""
    monkeypatch.setattr(ray_line, "Worker", Echoing)
    monkeypatch.setattr(ray_line, "END_S", 0.5)
    line = ray_line.Line(Held("echo", str(tmp_path / "first")), Workers(1), print)
    line.put(Job("echo", ["row"]))
    deadline = time.monotonic() + 120
    while not (tmp_path / "first").exists():
        assert time.monotonic() < deadline, "no worker has begun"
        time.sleep(0.05)
    line.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
    assert not any(thread.is_alive() for thread in line.threads)
    with pytest.raises(PosttrainError, match="the Ray pipeline"):  # of a thread that does not know yet
        line.put(Job("echo", ["late"]))


def test_the_jobs_of_a_dead_node_are_done_on_the_other(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_line, "Worker", Echoing)
    mark = tmp_path / "first"
    line = ray_line.Line(Held("echo", str(mark)), Workers(2), print)
    items = [f"row {number}" for number in range(40)]
    jobs = {line.put(Job("echo", items[start : start + 2])): start for start in range(0, 40, 2)}
    killed = threading.Thread(target=_kill_node, args=(nodes, mark))
    killed.start()
    found = sorted((jobs[done.number], list(done.results), done.tries) for done in line.wait(jobs))
    killed.join()
    line.close()
    dead = mark.read_text()
    assert [item for _, results, _ in found for item, _ in results] == items
    again = [results for _, results, tries in found if tries > 1]
    assert again
    assert all(where != dead for results in again for _, where in results)
    assert line.num_again == len(again)


def _kill_node(nodes: Any, mark: Path) -> None:
    """Once a worker has begun to wait, take its node away."""
    deadline = time.monotonic() + 120
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline, "no worker has begun"
        time.sleep(0.02)
    here = mark.read_text()
    node = next(node for node in nodes.worker_nodes if node.node_id == here)
    nodes.remove_node(node, allow_graceful=False)
