"""What happens when something breaks in a run of two processes: who says what, who stops, and what is gone on with."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.errors import TrainError
from posttrain.recipes import torchrun, torchrun_told
from posttrain.recipes.parting import LOST
from posttrain.recipes.processes import again, spoken
from posttrain.recipes.sft_config import SftConfig
from posttrain.train import distributed
from posttrain.train.interrupt import Interrupt
from posttrain.train.resumable import difference

SETTINGS = {
    "max_steps": 6,
    "max_length": 64,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_steps": 2,
    "num_preview_samples": 0,
    "bf16": False,
    "data_checks": "off",
}

# Loaded by every Python of a run: one process signals itself, or its launcher, after a certain step.
HARM = """
import os, signal
if "RANK" in os.environ and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    from posttrain.train import loop
    step_of_loop = loop._step
    def harmed(*args, **kwargs):
        done = step_of_loop(*args, **kwargs)
        step = next(value.step for value in args if isinstance(value, loop.State))
        rank, at, name, whom = os.environ["HARM"].split(",")
        if (os.environ["RANK"], str(step)) == (rank, at):
            os.kill(os.getppid() if whom == "launcher" else os.getpid(), signal.Signals[name])
        return done
    loop._step = harmed
"""


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """A folder with a model, data and a recipe."""
    folder = tmp_path_factory.mktemp("torchrun")
    tiny.save_base(folder / "base")
    lines = [{"prompt": f"What is the capital of {i}?", "completion": f"It is {i * 7 % 97}, user."} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {"model": "base", "dataset": "rows.jsonl"} | SETTINGS
    (folder / "sft.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items()))
    (folder / "harm").mkdir()
    (folder / "harm" / "sitecustomize.py").write_text(HARM)
    return folder


def environment(**more: str) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": "1", "POSTTRAIN_ALLOCATOR": "system", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed, **more}


def launched(place: Path, harm: str, *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "posttrain", "sft", "sft.yaml", "--launcher", "torchrun", "--num-processes", "2"]
    env = environment(HARM=harm, PYTHONPATH=str(place / "harm"))
    return subprocess.run([*line, *words], cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def said(place: Path, tiny: ModuleType) -> list[dict[str, dict[str, Any]]]:
    """What two processes said and how they ended, in every scenario of torchrun_pair.py."""
    tiny.save_base(place / "wider", hidden_size=48)
    rows = (place / "rows.jsonl").read_text()
    for name, text in (("other", rows.replace("capital", "centre")), ("broken", rows + '{"prompt": 3\n')):
        (place / name).mkdir()
        (place / name / "rows.jsonl").write_text(text)
        (place / name / "base").symlink_to(place / "base")
    (place / "text.txt").write_text("It is a long way to the capital of 7.\n" * 20)
    script, ports = Path(__file__).with_name("torchrun_pair.py"), free_ports(20)
    pair = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(place), *map(str, ports)],
            cwd=place,
            env=environment(TORCH_CPP_LOG_LEVEL="FATAL"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        words = [each.communicate(timeout=300)[0] for each in pair]
    finally:
        for each in pair:
            each.kill()
    assert [each.returncode for each in pair] == [0, -signal.SIGKILL], words
    return [json.loads((place / f"said-{rank}.json").read_text()) for rank in (0, 1)]


SENTENCES = {
    "settings": "different settings: learning_rate is 0.001 in process 0 and 0.002 in process 1",
    "version": "and '0.0.1' in process 1. Start all of them with one recipe, the same flags and the same version.",
    "data": "different data: rows.jsonl is",
    "reading": "rows.jsonl, line 61: not valid JSON",
    "full metrics": "/out: No space left on device; free some space",
    "full shard": "the checkpoint cannot be written ([Errno 27] File too large)",
    "missing shard": "a shard is missing or broken ([Errno 2]",
    "truncated shard": "a shard is missing or broken",
    "missing list": "the list of its shards (.metadata) cannot be read ([Errno 2]",
    "truncated list": "the list of its shards (.metadata) cannot be read",
    "other settings": "it was written with learning_rate 0.001, and this recipe says 0.0005",
    "other model": "it was written with model 'base', and this recipe says 'wider'",
    "other rows": "and would have 6 in 2 processes: set gradient_accumulation_steps to 1.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_one_process_says_what_is_wrong_and_both_end(said: list[dict[str, dict[str, Any]]], name: str) -> None:
    """With one sentence, whichever of them has it to say; the other does not say that it misses the first."""
    ends = [each[name] for each in said]
    assert [end["code"] for end in ends] == [2, 2]
    (words,) = [end["err"] for end in ends if end["err"]]
    assert words.startswith("error: ")
    assert words.count("\n") == 1
    assert SENTENCES[name] in words


def test_the_run_folder_has_the_words_of_whoever_failed(said: list[dict[str, dict[str, Any]]]) -> None:
    """And not that the first process, which writes it, misses another one."""
    assert [each["refused"]["code"] for each in said] == [2, 2]
    assert [each["refused"]["err"] for each in said] == ["", "error: this process alone knows why.\n"]
    record = said[0]["refused"]["record"]
    assert record["status"] == "failed"
    assert record["result"]["error"] == "another process of this run ended: this process alone knows why."


def test_the_fisher_information_is_that_of_one_process(said: list[dict[str, dict[str, Any]]]) -> None:
    assert [each["rounded"]["code"] for each in said] == [0, 0], [each["rounded"]["err"] for each in said]
    assert said[0]["rounded"]["record"]["status"] == "finished"


def test_a_bug_shows_its_trace_once(said: list[dict[str, dict[str, Any]]]) -> None:
    assert said[0]["bug"]["code"] == 2
    assert said[0]["bug"]["err"] == ""
    assert said[1]["bug"]["code"] == 1
    assert said[1]["bug"]["err"].strip().endswith("ValueError: a bug of this process alone")


def test_the_run_between_them_is_whole(said: list[dict[str, dict[str, Any]]]) -> None:
    assert [each["good"]["code"] for each in said] == [0, 0]
    assert said[1]["good"]["out"] == ""


def test_a_process_that_does_not_answer_is_given_up(said: list[dict[str, dict[str, Any]]]) -> None:
    assert said[0]["hang"]["code"] == 2
    assert "does not answer (Timed out waiting 3000ms" in said[0]["hang"]["err"]
    assert said[1]["hang"]["code"] == 2


def test_a_process_that_is_killed_is_missed_in_one_sentence(said: list[dict[str, dict[str, Any]]]) -> None:
    assert "killed" not in said[1]
    assert said[0]["killed"]["code"] == 2
    words = said[0]["killed"]["err"]
    assert words.startswith("error: another process of this run ended or does not answer (")
    assert words.endswith("go on with --resume-from-checkpoint, or start with --max-restarts to do so by itself.\n")
    assert words.count("\n") == 1


def test_shards_that_one_process_did_not_finish_are_no_checkpoint(
    said: list[dict[str, dict[str, Any]]], place: Path, inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on from the one before, and takes them away."""
    assert "killed" in said[0]
    left = sorted(path.name for path in (place / "out").glob("checkpoint-*"))
    assert left == ["checkpoint-00000002", "checkpoint-00000004.partial"]
    monkeypatch.chdir(place)
    on = ["--resume-from-checkpoint", "--gradient-accumulation-steps", 2, "--max-steps", 4]
    done = inside("sft", place / "sft.yaml", "--output-dir", place / "out", *on)
    assert done.returncode == 0, done.stderr
    whole = sorted(path.name for path in (place / "out").glob("checkpoint-*"))
    assert whole == ["checkpoint-00000002", "checkpoint-00000004"]
    lines = [json.loads(line) for line in (place / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_a_killed_process_comes_back_and_ends_as_if_nothing_had_been(place: Path, posttrain: Any) -> None:
    """Under torchrun's own agent and FSDP2, against one process that was left alone."""
    done = launched(place, "1,5,SIGKILL,self", "--strategy", "fsdp", "--max-restarts", "1", "--output-dir", "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "process 1 of 2 was ended by signal 9 (SIGKILL: often the system does so when memory runs out); "
        "starting all again\n"
    )
    assert "restart 1: going on from the last checkpoint" in done.stdout
    assert done.stdout.count("finished after 6 steps") == 1
    words = ["--gradient-accumulation-steps", "2", "--output-dir", str(place / "one")]
    alone = posttrain(
        "sft", str(place / "sft.yaml"), "--model", place / "base", "--dataset", place / "rows.jsonl", *words
    )
    assert alone.returncode == 0, alone.stderr
    found, wanted = (load_file(place / name / "model.safetensors") for name in ("two", "one"))
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-6
    lines, expected = (
        [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    )
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], abs=1e-5)


def test_ctrl_c_saves_in_all_processes_and_says_how_to_go_on(place: Path) -> None:
    done = launched(place, "0,3,SIGINT,launcher", "--max-restarts", "2", "--output-dir", "stopped")
    assert done.returncode == 130, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("stopping after this step and saving") == 1
    assert done.stdout.count("go on with:\n  posttrain sft") == 1
    assert "--launcher torchrun --num-processes 2 --max-restarts 2" in done.stdout.splitlines()[-1]
    assert json.loads((place / "stopped" / "run.json").read_text())["status"] == "interrupted"


def test_the_command_to_go_on_is_torchruns_where_a_person_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process alone would make a step of fewer rows, and be refused."""
    recipe = SftConfig.model_validate({"dataset": ["rows.jsonl"]})
    assert spoken(recipe) == "posttrain sft --dataset rows.jsonl"
    monkeypatch.setattr(distributed, "_STORE", [torch.distributed.HashStore()])
    started = {"RUN_ID": "none", "MAX_RESTARTS": "0"}
    for key, value in started.items():
        monkeypatch.setenv(f"TORCHELASTIC_{key}", value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert spoken(recipe) == "torchrun --nproc-per-node 4 -m posttrain sft --dataset rows.jsonl"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert spoken(recipe) == (
        "torchrun --nproc-per-node 4 --nnodes 2 --node-rank NODE_RANK --master-addr FIRST_MACHINE --master-port PORT "
        "--max-restarts 3 -m posttrain sft --dataset rows.jsonl"
    )
    own = recipe.model_copy(update={"launcher": "torchrun", "num_processes": 4})
    assert spoken(own) == "posttrain sft --dataset rows.jsonl --launcher torchrun --num-processes 4"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # met in some other way, which nobody here knows
    assert spoken(recipe) == "posttrain sft --dataset rows.jsonl"


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        meeting = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for key, value in meeting.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(TrainError, match=f"port {port} of this machine is in use by another program"):
            distributed.start(2.0)
    assert not distributed.has_met()


def test_a_node_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    meeting = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for key, value in meeting.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(TrainError, match=f"did not meet the others at 127.0.0.1:{port} within 1 seconds"):
        distributed.start(1.0)


def failure(code: int, at: int = 100, message: str = "") -> Any:
    return types.SimpleNamespace(exitcode=code, timestamp=at, message=message)


def test_who_ended_the_others() -> None:
    """Not who was asked to leave, nor who was killed for not leaving."""
    assert torchrun_told.culprit({0: failure(LOST), 1: failure(-9)})[:2] == (1, -9)
    assert torchrun_told.culprit({0: failure(-9, at=131), 1: failure(LOST, message="gone")}) == (1, LOST, "gone")
    assert torchrun_told.culprit({0: failure(-15), 1: failure(2), 2: failure(LOST)})[:2] == (1, 2)
    assert torchrun_told.culprit({0: failure(2), 1: failure(1)})[:2] == (1, 1)


def config(tmp_path: Path, **changes: Any) -> SftConfig:
    values = {"dataset": ["rows.jsonl"], "output_dir": str(tmp_path / "out"), "launcher": "torchrun"} | changes
    return SftConfig.model_validate(values)


def test_how_a_run_ended_is_one_sentence(tmp_path: Path) -> None:
    recipe = config(tmp_path, num_processes=4)
    (tmp_path / "out" / "checkpoint-00000008").mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text(json.dumps({"launch": "ours"}))
    with pytest.raises(TrainError) as raised:
        torchrun_told.failed(recipe, "ours", {2: failure(-9), 1: failure(LOST)})
    words = str(raised.value)
    assert words.startswith("process 2 of 4 was ended by signal 9 (SIGKILL: often the system")
    assert "checkpoint-00000008 is saved: go on with `posttrain sft" in words
    assert "--resume-from-checkpoint" in words
    with pytest.raises(
        TrainError, match=r"exit code 7\. No checkpoint had been written: start it again with `posttrain"
    ):
        torchrun_told.failed(recipe, "theirs", {0: failure(7)})
    with pytest.raises(TrainError, match=r"^gone$"):
        torchrun_told.failed(recipe, "ours", {0: failure(LOST, message="gone")})
    assert torchrun_told.failed(recipe, "ours", {0: failure(2), 1: failure(LOST)}) == 2


def test_after_a_restart_an_earlier_run_is_left_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed before its run began to write finds the run of somebody else."""
    recipe, began = config(tmp_path), datetime(2026, 1, 1, tzinfo=UTC)
    out, since = tmp_path / "out", began.timestamp()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert again(recipe, since) == {}  # nothing was begun at all
    (out / "checkpoint-00000004").mkdir(parents=True)

    def written(launch: str, minutes: int) -> None:
        started = (began + timedelta(minutes=minutes)).isoformat()
        (out / "run.json").write_text(json.dumps({"launch": launch, "started": started}))

    written("another", 5)
    assert again(recipe, since) == {}
    written("none", -5)  # the same name, before this launch
    assert again(recipe, since) == {}
    written("none", 5)
    assert again(recipe, since) == {"resume_from_checkpoint": True, "overwrite_output_dir": False}
    (out / "checkpoint-00000004").rmdir()
    assert again(recipe, since) == {"resume_from_checkpoint": False, "overwrite_output_dir": True}


def test_the_recipe_of_the_processes_says_the_same(tmp_path: Path) -> None:
    entries = [{"path": "a.jsonl", "weight": 0.5}, {"path": "b.jsonl", "max_samples": 3}]
    recipe = config(tmp_path, dataset=entries, num_processes=2, max_restarts=3, learning_rate=3e-5)
    assert torchrun.written(recipe, tmp_path).read_text()  # it is read back, and compared


def test_rows_of_a_step_are_mended_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 3)
    before, now = {"gradient_accumulation_steps": 8}, {"gradient_accumulation_steps": 3}
    assert "3 processes cannot share 8 evenly; start 1 or 2 or 4 or 8 of them." in difference(before, now)
    monkeypatch.setattr(distributed, "world", lambda: 4)
    assert difference(before, now).endswith("in 4 processes: set gradient_accumulation_steps to 2.")
    assert difference({}, now).startswith("it was written with other data, model or settings")


def test_an_echo_of_ctrl_c_does_not_stop_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some versions of torchrun pass a signal on that the terminal has given to all already."""
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # of one process alone it is a second Ctrl-C
    assert "press Ctrl-C again" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert capsys.readouterr().out == ""  # others get SIGTERM where one has died, and then nothing is saved
        assert interrupt()
        assert capsys.readouterr().out == "\nstopping and saving\n"
        monkeypatch.setattr(interrupt, "_since", -100.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_torchs_own_words_are_kept_back() -> None:
    torchrun.quiet()
    loggers = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]
    assert loggers
    assert not any(logging.getLogger(name).isEnabledFor(logging.CRITICAL) for name in loggers)
    assert torch.distributed.is_available()
