"""The verbs over workers that are in this process: what is asked, kept and written, and what fails how. No Ray."""

import json
import pickle
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.errors import ConfigError, PosttrainError
from posttrain.recipes import ray_sample, ray_spread
from posttrain.recipes.ray_cluster import Workers
from posttrain.recipes.ray_jobs import Done, Held, Job
from posttrain.recipes.ray_models import HeldModel
from posttrain.recipes.ray_servers import Servers
from posttrain.rollouts.asking import Ask, Manner
from posttrain.rollouts.endpoint import ServerError
from posttrain.types import Message

Inside = Callable[..., Any]
RAY = ("--ray", "auto", "--num-workers", "2")


class Here:
    """A Line whose one worker is this process. Answers come in the opposite order. `breaks_at`: the job with which
    somebody pulls the plug."""

    breaks_at = -1
    jobs: list[tuple[str, str, int]] = []  # noqa: RUF012 (all lines write into it)
    lock = threading.Lock()

    def __init__(self, held: Held, workers: Workers, _: object) -> None:
        self.model, self.workers, self.held = HeldModel(held, workers.cpus), workers, held
        self.num_again, self.done = 0, dict[int, Done]()

    def put(self, job: Job) -> int:
        job = pickle.loads(pickle.dumps(job))
        with self.lock:
            self.jobs.append((self.held.name, job.op, len(job.items)))
            number = len(self.done)
            self.done[number] = done = Done(number)
            if len(self.jobs) - 1 == self.breaks_at:
                done.error = KeyboardInterrupt()  # type: ignore[assignment]
                return number
            try:
                done.results = getattr(self.model, job.op)(number, job.items, *job.common)
            except PosttrainError as error:
                done.error = error
            done.spent, done.away = self.model.told()
        return number

    def wait(self, numbers: Collection[int]) -> Iterator[Done]:
        for number in sorted(numbers, reverse=True):
            done: Done = pickle.loads(pickle.dumps(self.done[number]))
            if isinstance(done.error, KeyboardInterrupt):
                raise KeyboardInterrupt
            yield done

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> type[Here]:
    """No cluster is asked for, and every line is a Here."""
    monkeypatch.setattr(ray_spread, "Line", Here)
    monkeypatch.setattr(ray_spread, "cluster", lambda *_: nullcontext())
    monkeypatch.setattr(Here, "jobs", [])
    return Here


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A tiny random model with a chat template."""
    folder: Path = tiny.save_base(tmp_path_factory.mktemp("chat"))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Sixteen prompts, one of them too long for the model."""
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"say {n} twice"} for n in range(16)] + [{"prompt": "word " * 4000}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_two_models_side_by_side_write_the_same_file(
    inside: Inside, here: type[Here], chat: Path, base: Path, prompts: Path, tmp_path: Path
) -> None:
    words = ["sample", "--model", chat, "--model", base, "--dataset", prompts, "--num-samples", "2"]
    words += ["--max-new-tokens", "5", "--batch-size", "4"]
    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    alone = inside(*words, "--output", one)
    spread = inside(*words, "--output", many, *RAY)
    assert spread.returncode == 0, spread.stderr
    assert same(one, many)
    # The same is told, that of both models which is known beforehand (a prompt is too long) before either is asked.
    assert sorted(spread.stdout.replace("many", "one").splitlines()) == sorted(alone.stdout.splitlines())
    assert "too long and left out" in spread.stdout
    assert {name for name, _, _ in here.jobs} == {str(chat), str(base)}
    assert not list(tmp_path.glob("*.ray.jsonl"))
    # More answers of the same models: only what is missing is asked for.
    here.jobs.clear()
    more = [*words[:-6], "--num-samples", "3", *words[-4:]]
    assert inside(*more, "--output", many, *RAY).returncode == 0
    assert inside(*more, "--output", one).returncode == 0
    assert same(one, many)
    assert sum(count for _, _, count in here.jobs) == 32


def test_a_run_that_was_broken_off_goes_on(
    inside: Inside, here: type[Here], chat: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sample", "--model", chat, "--dataset", prompts, "--num-samples", "2", "--max-new-tokens", "5"]
    words += ["--batch-size", "1"]
    # One part after the other, four of two jobs each, so that it is known which job the plug is pulled with.
    in_order = ray_sample.side_by_side
    monkeypatch.setattr(ray_sample, "side_by_side", lambda answer, parts, _: in_order(answer, parts, 0))
    many, kept = tmp_path / "many.jsonl", tmp_path / "many.ray.jsonl"
    monkeypatch.setattr(here, "breaks_at", 7)
    assert inside(*words, "--output", many, *RAY).returncode == 130
    before = [json.loads(line)["key"] for line in kept.read_text().splitlines()]
    assert len(set(before)) == len(before) == 12
    # A kill, in the middle of a line, leaves no output yet.
    many.unlink()
    kept.write_bytes(kept.read_bytes() + b'{"key": "cut o')
    monkeypatch.setattr(here, "breaks_at", -1)
    here.jobs.clear()
    again = inside(*words, "--output", many, *RAY)
    assert again.returncode == 0, again.stderr
    assert f"{len(before):,} answers of an earlier call" in again.stdout
    assert sum(count for _, _, count in here.jobs) == 4
    assert inside(*words, "--output", tmp_path / "one.jsonl").returncode == 0
    assert same(tmp_path / "one.jsonl", many)


def test_questions_and_suites_have_the_same_figures(
    inside: Inside, here: type[Here], chat: Path, tmp_path: Path
) -> None:
    sums = tmp_path / "sums.jsonl"
    sums.write_text(
        "".join(json.dumps({"question": f"{n} + {n}?", "answer": f"#### {2 * n}"}) + "\n" for n in range(9))
    )
    words = ["eval", chat, "--dataset", sums, "--num-samples", "2", "--max-new-tokens", "4", "--sampler-slots", "4"]
    suite = ["eval", chat, "--suite", tmp_path / "suite.yaml", "--sampler-slots", "8"]
    rows = [{"question": f"{n}?", "options": ["yes", "no"], "answer": n % 2} for n in range(5)]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"It has {n} hours."}) + "\n" for n in range(20)))
    tasks = [("sums", "answers", "sums"), ("capitals", "choices", "choices"), ("text", "perplexity", "texts")]
    lines = [f"  - {{name: {name}, kind: {kind}, dataset: {file}.jsonl" for name, kind, file in tasks]
    lines[0] += ", max_new_tokens: 4, reward: numeric"
    (tmp_path / "suite.yaml").write_text("name: mine\ntasks:\n" + "".join(f"{line}}}\n" for line in lines))
    for given, name in ((words, "questions"), (suite, "suite")):
        one, many = tmp_path / f"{name}-one", tmp_path / f"{name}-many"
        assert inside(*given, "--output-dir", one).returncode == 0
        done = inside(*given, "--output-dir", many, *RAY)
        assert done.returncode == 0, done.stderr
        for file in ("answers.jsonl", "weighed.jsonl", "marks.jsonl"):
            assert (one / file).exists() == (many / file).exists()
            if (one / file).exists():
                assert same(one / file, many / file), file
        assert not (many / "answers.ray.jsonl").exists()
    assert {op for _, op, _ in here.jobs} >= {"sample", "options", "texts"}


def test_a_judge_of_our_own_gives_the_same_verdicts(
    inside: Inside, here: type[Here], chat: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"say {n}", "responses": [{"content": f"{n} {n}"}, {"content": f"no {n}"}], "ranks": [1, 2]}
        for n in range(6)
    ]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["judge", chat, "--dataset", data, "--num-null-prompts", "2", "--wording", "completion"]
    assert inside(*words, "--output-dir", tmp_path / "one").returncode == 0
    done = inside(*words, "--output-dir", tmp_path / "many", *RAY)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "one" / "preferences.jsonl", tmp_path / "many" / "preferences.jsonl")
    found = [json.loads((tmp_path / name / "judge.json").read_text()) for name in ("one", "many")]
    assert found[0]["figures"] == found[1]["figures"]
    assert found[0]["spent"]["asked"] == found[1]["spent"]["asked"] > 0
    assert {op for _, op, _ in here.jobs} == {"weigh"}


@pytest.mark.usefixtures("at_once")
def test_instructions_by_workers_are_the_same(inside: Inside, chat: Path, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        "".join(json.dumps({"instruction": f"Tell of thing {n}.", "output": "So."}) + "\n" for n in range(9))
    )
    words = ["instruct", "--model", chat, "--method", "evol", "--dataset", seeds, "--num-generations", "1"]
    words += ["--max-new-tokens", "8", "--answer-max-new-tokens", "6", "--min-words", "1"]
    done = [inside(*words, "--output-dir", tmp_path / name, *more) for name, more in (("one", ()), ("many", RAY))]
    assert done[0].returncode == done[1].returncode, done[1].stderr
    assert "posttrain bug" not in done[1].stderr
    assert (tmp_path / "one" / "left_out.jsonl").read_text() == (tmp_path / "many" / "left_out.jsonl").read_text()
    assert same(tmp_path / "one" / "asked.jsonl", tmp_path / "many" / "asked.jsonl")


@pytest.mark.usefixtures("at_once")
def test_a_server_that_is_away_leaves_its_work_to_the_others(
    inside: Inside, judge_server: ModuleType, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"q{n}", "responses": [{"content": "right"}, {"content": f"no {n}"}], "ranks": [1, 2]}
        for n in range(8)
    ]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server, lame = judge_server.JudgeServer(), judge_server.JudgeServer(fault=lambda *_: (503, {"error": "full"}))
    words = [
        "judge",
        "anyone",
        "--dataset",
        data,
        "--max-retries",
        "0",
        "--num-null-prompts",
        "0",
        "--concurrency",
        "4",
    ]
    try:
        assert inside(*words, "--judge-url", server.url, "--output-dir", tmp_path / "one").returncode == 0
        num_alone = len(server.asked)
        away = "http://127.0.0.1:9/v1"
        # The first address names the judge, wherever its work is done.
        urls = f"{server.url},{away},{lame.url}"
        done = inside(*words, "--judge-url", urls, "--output-dir", tmp_path / "many", *RAY)
    finally:
        server.close()
        lame.close()
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "one" / "preferences.jsonl", tmp_path / "many" / "preferences.jsonl")
    assert len(server.asked) == 2 * num_alone
    assert f"{away}: " in done.stdout
    assert "nobody answers there" in done.stdout
    assert f"{lame.url}: " in done.stdout


@pytest.mark.usefixtures("at_once")
def test_servers_that_are_all_away(judge_server: ModuleType) -> None:
    server = judge_server.JudgeServer(fault=lambda number, _: (400, {"error": "no"}) if number % 2 else None)
    given = Held("m", urls=(server.url, "http://127.0.0.1:9/v1"), server=(("concurrency", 1), ("max_retries", 0)))
    asks = [
        Ask((Message("user", "<prompt 0123abcd>\nq\n</prompt 0123abcd>\n<answer 0123abcd>\na\n</answer 0123abcd>"),))
    ]
    try:
        servers = Servers(given)
        found = servers.ask(0, asks * 2, lambda model, some: model.say(some, Manner(max_new_tokens=20)))
    finally:
        server.close()
    assert [bool(said.error) for (said,) in found] == [False, True]  # its own error stays with it
    assert [(url, count) for url, count, _ in servers.failures()] == [(server.url, 1), ("http://127.0.0.1:9/v1", 1)]
    assert servers.failures() == []
    with pytest.raises(ServerError, match="nobody answers there"):
        Servers(replace(given, urls=given.urls[1:])).ask(0, asks, lambda model, some: model.say(some, Manner()))
    with pytest.raises(ConfigError, match=r"on machine .* of the Ray cluster: api_key_env names NO_SUCH_KEY"):
        Servers(replace(given, server=(("api_key_env", "NO_SUCH_KEY"),)))
