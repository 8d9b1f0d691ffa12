"""What goes wrong between a verb and the workers of a cluster, each in one sentence. No cluster is started."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError, ModelError, PosttrainError
from posttrain.recipes import ray_jobs, ray_servers, ray_spread, ray_words, ray_worker
from posttrain.recipes.config import load
from posttrain.recipes.judge_config import JudgeConfig
from posttrain.recipes.ray_cluster import Workers, cluster
from posttrain.recipes.ray_jobs import Done, Held, Job
from posttrain.recipes.ray_sampler import held_model, outline
from posttrain.recipes.ray_servers import Servers
from posttrain.recipes.ray_worker import Worker
from posttrain.recipes.sample_config import SampleConfig
from posttrain.rollouts.asking import Ask, Manner, Said
from posttrain.rollouts.endpoint import ServerError
from posttrain.types import Message


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny random model with a chat template."""
    folder: Path = tiny.save_base(tmp_path_factory.mktemp("chat"))
    return folder


class Desk:
    """A desk that counts by itself."""

    def __init__(self, tries: int) -> None:
        self.begin = SimpleNamespace(remote=lambda *_: tries)
        self.end = SimpleNamespace(remote=lambda *_: None)


def worker(held: Held, *, tries: int = 1) -> Worker:
    made = object.__new__(Worker)
    made.desk, made.held, made.cpus, made._model = Desk(tries), held, 1.0, None
    made.who, made.node, made.ray = "machine:7", "node", SimpleNamespace(get=lambda found: found)
    return made


def done_by(one: Worker, job: Job) -> Done:
    (content,) = one({"number": [4], "job": [pickle.dumps(job)]})["found"]
    found: Done = pickle.loads(content)
    assert found.number == 4
    return found


def test_a_worker_of_another_version_says_so() -> None:
    found = done_by(worker(Held("m", versions=(("posttrain", "9.9"), ray_jobs.VERSIONS[1]))), Job("say", ["x"]))
    assert isinstance(found.error, ConfigError)
    assert "posttrain is " in str(found.error)
    assert "and 9.9 where the command was started" in str(found.error)


def test_other_weights_on_a_worker_are_refused(chat: Path) -> None:
    found = done_by(worker(Held("m", str(chat), "beefbeef")), Job("sample", [], (None,)))
    assert isinstance(found.error, ModelError)
    assert "has other weights, or another tokenizer, in" in str(found.error)


def test_what_was_answered_under_another_template_is_asked_again(chat: Path, tmp_path: Path) -> None:
    other = shutil.copytree(chat, tmp_path / "other")
    before = held_model("m", str(other))
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert ray_spread._key(before, "say", "x", ()) == ray_spread._key(held_model("m", str(chat)), "say", "x", ())
    assert ray_spread._key(before, "say", "x", ()) != ray_spread._key(held_model("m", str(other)), "say", "x", ())


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_told_before_a_cluster_is_asked(chat: Path, tmp_path: Path, gone: str) -> None:
    (shutil.copytree(chat, tmp_path / "torn") / gone).unlink()
    with pytest.raises(ModelError, match=r"torn: the (tokenizer|model's config.json) cannot be"):
        outline(str(tmp_path / "torn"))


def test_weights_that_are_nowhere_are_told_by_the_worker(chat: Path, tmp_path: Path) -> None:
    (shutil.copytree(chat, tmp_path / "torn") / "model.safetensors").unlink()
    found = done_by(
        worker(held_model("m", str(tmp_path / "torn"))), Job("say", [Ask((Message("user", "q"),))], (Manner(),))
    )
    assert isinstance(found.error, ModelError)
    assert r"no *.safetensors weights" in str(found.error)


def test_a_key_that_a_worker_lacks_is_one_sentence() -> None:
    held = Held("m", urls=("http://127.0.0.1:9/v1",), server=(("api_key_env", "NO_SUCH_KEY"),))
    found = done_by(worker(held), Job("say", [Ask((Message("user", "q"),))], (Manner(),)))
    assert isinstance(found.error, ConfigError)
    assert "of the Ray cluster: api_key_env names NO_SUCH_KEY" in str(found.error)


class Answered:
    """A Line whose jobs come back as `done` says, whatever they are."""

    done: Sequence[Done] = ()
    num_again = 0

    def __init__(self, *_: object) -> None:
        self.num_put = 0

    def put(self, _: Job) -> int:
        self.num_put += 1
        return self.num_put - 1

    def wait(self, _: Collection[int]) -> Iterator[Done]:
        yield from self.done

    def close(self) -> None: ...


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ray_spread.Spread]:
    """`spread(*done)`: two workers from whom this comes; the file of answers is kept.jsonl."""
    monkeypatch.setattr(ray_spread, "Line", Answered)
    monkeypatch.setattr(ray_spread, "cluster", lambda *_: nullcontext())
    config = load(SampleConfig, None, {"dataset": "x", "output": "y.jsonl", "ray": "auto", "num_workers": "2"})

    def made(*done: Done) -> ray_spread.Spread:
        monkeypatch.setattr(Answered, "done", done)
        return ray_spread.Spread(config, tmp_path / "kept.jsonl", print)

    return made


@pytest.mark.parametrize("error", [None, ServerError("nobody answers there")])
def test_answers_stay_on_disk_where_others_failed(spread: Any, tmp_path: Path, error: ServerError | None) -> None:
    """A verb may go on without what failed, as `judge` does; then its output lacks what came of the same questions."""
    done = [Done(0, [[Said("yes", "stop")]]), Done(1, [[Said("no", "stop")]], error)]
    with spread(*done) as asked, pytest.raises(ServerError) if error else nullcontext():
        asked.all(Held("m"), "say", ["x", "y"], Manner())
    kept = tmp_path / "kept.jsonl"
    assert kept.exists() == (error is not None)
    assert not error or len(kept.read_text().splitlines()) == 1


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("aside_s", "num_asked"), [(30.0, 1), (0.0, 2)])
def test_a_server_that_answers_500_for_a_while_is_asked_again_later(
    judge_server: ModuleType, monkeypatch: pytest.MonkeyPatch, aside_s: float, num_asked: int
) -> None:
    monkeypatch.setattr(ray_servers, "ASIDE_S", aside_s)
    ill = judge_server.JudgeServer(fault=lambda number, _: None if number else (500, {"error": "ill"}))
    well = judge_server.JudgeServer()
    texts = "<prompt 0123abcd>\nq\n</prompt 0123abcd>\n<answer 0123abcd>\na\n</answer 0123abcd>"
    servers = Servers(Held("m", urls=(ill.url, well.url), server=(("concurrency", 1), ("max_retries", 0))))
    try:
        for number in (0, 2):  # jobs that begin at the first server
            ((said,),) = servers.ask(
                number, [Ask((Message("user", texts),))], lambda model, some: model.say(some, Manner(max_new_tokens=20))
            )
            assert not said.error
    finally:
        ill.close()
        well.close()
    assert len(ill.asked) == num_asked
    assert len(well.asked) == 3 - num_asked


def test_a_job_that_ends_every_worker_is_given_up() -> None:
    found = done_by(worker(Held("m"), tries=ray_worker.MOST_TRIES + 1), Job("say", ["x", "y"]))
    assert isinstance(found.error, PosttrainError)
    assert "the same 2 rows ended 3 workers" in str(found.error)
    assert "fewer workers on a machine" in str(found.error)
    # And one that another worker has done meanwhile is not begun.
    assert done_by(worker(Held("m"), tries=0), Job("say", ["x"])).results == ()


def test_a_bug_in_a_worker_shows_its_trace(spread: Any) -> None:
    found = done_by(worker(Held("m")), Job("no_such_method", ["x"]))
    assert "AttributeError" in found.trace
    with (
        pytest.raises(RuntimeError, match=r"a worker of m broke:\n(.|\n)*AttributeError"),
        spread(replace(found, number=0)) as asked,
    ):
        asked.all(Held("m"), "say", ["x"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"ray": "ray://head:10001"}, "over which Ray Data does not run"),
        ({"ray": "head"}, "expected local, auto, or HOST:PORT"),
        ({"num_workers": "2"}, "num_workers is given and ray is not"),
        ({"worker_gpus": "1"}, "worker_gpus is given and ray is not"),
    ],
)
def test_keys_that_do_not_fit(flags: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(SampleConfig, None, {"dataset": "pocket", "output": "a.jsonl", **flags})


def test_several_servers_need_ray() -> None:
    given = {"judge": "m", "dataset": "x.jsonl", "judge_url": "http://a/v1,http://b/v1"}
    with pytest.raises(ConfigError, match="judge_url names several servers"):
        load(JudgeConfig, None, given)
    assert load(JudgeConfig, None, {**given, "ray": "local"}).num_workers == 1


def test_errors_of_ray_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="needs Ray: pip install 'posttrain[ray]'")
    for error, words in (
        (exceptions.OutOfMemoryError("killed"), "ran out of memory: give each more room"),
        (exceptions.WorkerCrashedError(), "a Ray worker died and could not be started again"),
        (exceptions.RayError("No module named 'posttrain'"), "lacks posttrain: install posttrain there"),
        (RuntimeError("Version mismatch: The cluster was started with: Ray: 2.1"), "has other versions than this"),
        (exceptions.RayError("odd"), "Ray failed: odd"),
    ):
        told = ray_words.plain(error)
        assert isinstance(told, PosttrainError)
        assert words in str(told)
        assert "\n" not in str(told)
    assert ray_words.plain(ValueError("ours")) is None
    own = DataError("mend it")
    assert ray_words.plain(own) is own
    monkeypatch.setattr(ray_words, "heard", ["2 workers were killed due to memory pressure (OOM)"])
    assert "ran out of memory" in str(ray_words.plain(exceptions.WorkerCrashedError()))


@pytest.mark.filterwarnings("ignore")
def test_nobody_at_the_address() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'posttrain[ray]'")
    with pytest.raises(ConfigError, match=r"no Ray cluster can be reached at 127.0.0.1:9 .*start one with `ray start"):
        cluster("127.0.0.1:9", Workers(1), print).__enter__()


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'posttrain\[ray\]'"):
        ray_words.quiet_ray()


def test_a_start_that_takes_too_long_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'posttrain[ray]'")

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. So it is.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ConfigError, match=r"could not be started on this machine .*timed out.* run the same command"):
        cluster("local", Workers(1), print).__enter__()


def test_an_error_of_ours_is_not_its_own_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows causes would go in circles."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'posttrain[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", list)
    with pytest.raises(ConfigError, match="has room for 0") as raised:
        cluster("auto", Workers(1), print).__enter__()
    assert raised.value.__cause__ is None


def test_no_cluster_is_started_unasked() -> None:
    """As by a thread that is late, after this process has let go of its cluster."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'posttrain[ray]'")
    code = "from posttrain.recipes.ray_words import quiet_ray; quiet_ray().put(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode
    assert "Ray has not been started" in done.stderr
