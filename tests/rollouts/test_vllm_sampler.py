"""Sampling on servers while a policy is trained: hand-over and its probe, faults and what is done about them.

The servers are processes of their own (tests/vllm_server.py).
"""

import asyncio
import importlib.util
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import torch

from posttrain.errors import ConfigError, ModelError, RunStopped
from posttrain.models.load import Policy
from posttrain.models.lora import add_lora
from posttrain.rollouts import endpoint, vllm
from posttrain.rollouts.endpoint import ServerError
from posttrain.rollouts.http import ERROR
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.rollouts.vllm import NoSuchModel, VllmServer
from posttrain.rollouts.vllm_dispatch import Dispatch, Job
from posttrain.rollouts.vllm_probe import Probe
from posttrain.rollouts.vllm_sampler import VllmSampler
from posttrain.rollouts.vllm_transfer import AdapterTransfer, ReloadTransfer, Transfer, folder_of, put

DECODING = Decoding(6, temperature=0.8)
REQUESTS = [Request((5, 9, 17), (1, 2, 3)), Request((40, 2), (4, 5, 6))]
Make = Callable[..., VllmSampler]


@pytest.fixture(scope="module")
def stub_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_stub", Path(__file__).parents[1] / "vllm_stub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny.tokenizer()
    tiny.model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def nursery(stub_module: ModuleType) -> Iterator[Any]:
    found = stub_module.Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def pair(nursery: Any, base: Path) -> list[Any]:
    """Two servers that all tests share: what one plants is mended before the next."""
    return [nursery.start(base), nursery.start(base)]


@pytest.fixture
def servers(pair: list[Any]) -> list[Any]:
    for stub in pair:
        stub.fault()
    return pair


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def adapted(tiny: ModuleType) -> Policy:
    return add_lora(whole(tiny), r=4, alpha=8)


def whole(tiny: ModuleType) -> Policy:
    tokenizer = tiny.tokenizer()
    return Policy(tiny.model("llama", vocab_size=len(tokenizer)), tokenizer, "tiny")


def learn(policy: Policy, seed: int = 1, size: float = 0.3) -> None:
    """A step that shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(policy, stubs, transfer)`; `make.said` is what the sampler says."""

    def made(policy: Policy, stubs: list[Any], transfer: Transfer | None = None, **options: Any) -> VllmSampler:
        number = next(counter)
        options = {"decoding": DECODING, "say": said.append, "deadline_s": 30.0} | options
        servers = [VllmServer(stub.url, "base", tokenizer=policy.tokenizer, retries=1) for stub in stubs]
        # Tests share servers, so each has names of its own, as runs have.
        transfer = transfer or AdapterTransfer(f"{tmp_path.name}-{number}")
        return VllmSampler(policy, servers, transfer, tmp_path / "shared", **options)

    said: list[str] = []
    counter = iter(range(9))
    made.said = said  # type: ignore[attr-defined]
    return made


def reload(label: str = "run") -> ReloadTransfer:
    return ReloadTransfer(label)


def agree(sampler: VllmSampler, policy: Policy) -> None:
    """What the servers sample is what the policy samples."""
    local = PolicySampler(policy, dtype=torch.float32)
    local.refresh(0)
    for ours, theirs in zip(local.sample(REQUESTS, DECODING), sampler.sample(REQUESTS, DECODING), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.token_ids == other.token_ids
            assert other.logps == pytest.approx(one.logps, abs=1e-4)


def test_every_hand_over_serves_the_new_weights_under_a_new_name(
    adapted: Policy, servers: list[Any], make: Make, tmp_path: Path
) -> None:
    sampler = make(adapted, servers)
    for version in (0, 2, 3):
        sampler.refresh(version)
        assert sampler.version == version
        agree(sampler, adapted)
        learn(adapted, version)
    label = sampler.transfer.label
    for stub in servers:
        seen = stub.seen()
        assert [name for name in seen["loaded"] if label in name] == [f"{label}-v{version}" for version in (0, 2, 3)]
        assert [name for name in seen["unloaded"] if label in name] == [f"{label}-v{version}" for version in (0, 2)]
        assert seen["names"][-1] == f"{label}-v3"
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [f"{label}-v0000000{n}" for n in (2, 3)]
    assert sampler.told()["sampler_servers"] == 2


def test_whole_models_are_loaded_again(tiny: ModuleType, nursery: Any, base: Path, make: Make) -> None:
    for policy in (whole(tiny), add_lora(whole(tiny), r=4)):
        stub = nursery.start(base)
        sampler = make(policy, [stub], reload())
        sampler.refresh(0)
        learn(policy, size=0.05)
        sampler.refresh(1)
        agree(sampler, policy)
        assert stub.seen()["calls"].index("/pause") < stub.seen()["calls"].index("/collective_rpc")
        assert stub.seen()["calls"].count("/resume") == 2


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "old weights": ({"stale": True}, "still serves version {}:"),
    "no weights at all": ({"garbage": True}, "nor any other that this run has handed over"),
    "lies about what it draws": ({"lie": -0.5}, "tokens that it drew itself"),
    "before temperature": ({"raw": True}, "tokens that it drew itself"),
    "other tokens": ({"other_ids": True}, "tokens that it drew itself"),
    "no numbers": ({"nan": True}, "a log-probability that is none"),
    "another prompt": ({"echo": True}, "read other prompt ids"),
    "no such path": ({"no": ["/v1/load_lora_adapter"]}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    "refuses": ({"refuse": "rank 4 is over 2"}, "rank 4 is over 2"),
    "no probe": ({"no": ["/v1/completions"]}, "does not know this path"),
}


def test_servers_with_faults_are_left_out_and_taken_back(adapted: Policy, servers: list[Any], make: Make) -> None:
    """The two take turns: one has a fault at a hand-over, and the other is back from its own."""
    sampler, said = make(adapted, servers), make.said  # type: ignore[attr-defined]
    sampler.refresh(0)
    for version, (fault, (planted, told)) in enumerate(FAULTS.items(), 1):
        learn(adapted, version)
        said.clear()
        faulty, other = servers[version % 2], servers[1 - version % 2]
        other.fault()
        faulty.fault(**planted)
        sampler.refresh(version)
        assert any(told.format(version - 1) in line and faulty.url in line for line in said), (fault, said)
        assert (f"{other.url} is back, with version {version}" in said) == (version > 1), (fault, said)
        assert sampler.told()["sampler_servers"] == 1, fault
    before = faulty.seen()["completions"]
    agree(sampler, adapted)
    assert faulty.seen()["completions"] == before, "nothing is asked of it"


def test_a_run_without_a_server_is_stopped(adapted: Policy, servers: list[Any], make: Make) -> None:
    planted, told = FAULTS["no such path"]
    sampler = make(adapted, servers[:1])
    servers[0].fault(**planted)
    with pytest.raises(RunStopped, match=f"no sampling server is left of 1.*{told}"):
        sampler.refresh(0)


def test_a_reload_that_loads_nothing_is_found_out(tiny: ModuleType, nursery: Any, base: Path, make: Make) -> None:
    """Success is said, and version 0 is served."""
    policy, stub = whole(tiny), nursery.start(base)
    sampler = make(policy, [stub], reload())
    sampler.refresh(0)
    learn(policy, size=0.01)
    stub.fault(stale=True)
    with pytest.raises(RunStopped, match="still serves version 0"):
        sampler.refresh(1)
    stub.fault(no=["/collective_rpc"])
    with pytest.raises(RunStopped, match=r"It is vLLM 0\.32\.0\. .*VLLM_SERVER_DEV_MODE=1"):
        sampler.refresh(2)


def test_another_trainer_at_the_same_server_is_named(tiny: ModuleType, nursery: Any, base: Path, make: Make) -> None:
    one, other, stub = whole(tiny), whole(tiny), nursery.start(base)
    mine, theirs = make(one, [stub], reload("mine")), make(other, [stub], reload("theirs"))
    mine.refresh(0)
    learn(other, size=0.05)
    theirs.refresh(7)
    with pytest.raises(RunStopped, match="another trainer has handed weights over to it, 'theirs-v7'"):
        mine.sample(REQUESTS, DECODING)


def test_answers_of_a_server_that_was_started_anew_are_asked_of_another(
    tiny: ModuleType, nursery: Any, base: Path, make: Make
) -> None:
    policy, stubs = whole(tiny), [nursery.start(base), nursery.start(base)]
    sampler = make(policy, stubs, reload())
    learn(policy, size=0.05)
    sampler.refresh(1)
    stubs[0].forget()
    agree(sampler, policy)
    assert any("answers are not taken" in line for line in make.said)  # type: ignore[attr-defined]
    stubs[1].forget()
    with pytest.raises(RunStopped, match="it does not serve version 1"):
        sampler.sample(REQUESTS, DECODING)


def test_answers_of_a_server_that_was_started_anew_and_then_died_are_not_taken(
    tiny: ModuleType, nursery: Any, base: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, stubs = whole(tiny), [nursery.start(base), nursery.start(base)]
    sampler = make(policy, stubs, reload())
    learn(policy, size=0.05)
    sampler.refresh(1)
    stubs[0].forget()
    run, left = sampler.dispatch.run, list[float]()

    def dies(jobs: Any, servers: Any, decoding: Decoding, *, left_s: float) -> dict[str, str]:
        left.append(left_s)
        found = run(jobs, servers, decoding, left_s=left_s)
        return found | {stubs[0].url: "nobody answers there"} if len(servers) == 2 else found

    monkeypatch.setattr(sampler.dispatch, "run", dies)
    agree(sampler, policy)
    first, second = left
    assert second < first <= sampler.dispatch.deadline_s, "one deadline for what is asked and what is asked again"


def test_what_was_asked_before_an_adapter_was_back_does_not_count_against_the_server() -> None:
    """Two requests find the adapter gone, and the second answer comes when the first has had it handed over."""
    restored = threading.Event()

    class Server(VllmServer):
        slow = True

        async def answer(self, client: Any, request: Request, seed: int, decoding: Decoding) -> Completion:  # noqa: ARG002
            if seed == 1 and not restored.is_set():
                raise NoSuchModel("gone")
            if seed == 2 and self.slow:
                self.slow = False
                while not restored.is_set() or not told:
                    await asyncio.sleep(0.001)
                raise NoSuchModel("gone")
            return Completion((1,), (-1.0,), "stop", "")

    told: list[str] = []
    jobs = [Job(Request((1,), (seed,)), seed) for seed in (1, 2)]
    rules = Dispatch(deadline_s=10, say=told.append, again=lambda _: restored.set())
    assert rules.run(jobs, [Server("http://a/v1", "base", concurrency=2)], DECODING) == {}
    assert [job.found and job.found.finish for job in jobs] == ["stop", "stop"]


def test_what_waits_for_a_server_that_is_out_and_is_refused_by_the_rest_ends() -> None:
    """The first refuses an answer, which goes to the second, which dies."""

    class First(VllmServer):
        async def answer(self, client: Any, request: Request, seed: int, decoding: Decoding) -> Completion:  # noqa: ARG002
            if seed == 1:
                raise ServerError("it read other prompt ids")
            return Completion((1,), (-1.0,), "stop", "")

    class Second(VllmServer):
        async def answer(self, client: Any, request: Request, seed: int, decoding: Decoding) -> Completion:  # noqa: ARG002
            while not jobs[0].refused:
                await asyncio.sleep(0.001)
            raise ServerError("nobody answers there", is_for_all=True)

    jobs = [Job(Request((seed,), (seed,)), seed) for seed in (1, 2)]
    rules = Dispatch(deadline_s=10, say=lambda _: None)
    servers = [First("http://a/v1", "base", concurrency=1), Second("http://b/v1", "base", concurrency=1)]
    assert rules.run(jobs, servers, DECODING) == {"http://b/v1": "nobody answers there"}
    assert [job.found and job.found.finish for job in jobs] == [ERROR, "stop"]
    assert jobs[0].found
    assert jobs[0].found.text == "it read other prompt ids"
    assert (rules.counts.failed, rules.counts.late) == (1, 0)


def test_a_server_that_does_not_answer_a_pause_is_told_to_go_on(nursery: Any, base: Path, tmp_path: Path) -> None:
    """It may have paused all the same, and is then nobody's."""
    stub = nursery.start(base)
    server = VllmServer(stub.url, "base")
    for faults, told in (({"mute": ["/pause"]}, "/pause.*no answer within"), ({"refuse": "no room"}, "no room")):
        stub.fault(**faults)
        with pytest.raises(ServerError, match=told):
            server.reload(str(tmp_path), timeout_s=0.5 if "mute" in faults else 30)
        assert stub.seen()["calls"][-1] == "/resume"
    stub.fault(mute=["/pause"], no=["/resume"])
    with pytest.raises(ServerError, match="/pause"):
        server.reload(str(tmp_path), timeout_s=0.5)


def test_a_few_tokens_are_not_waited_for_as_long_as_a_turn(
    adapted: Policy, nursery: Any, base: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "CALL_S", 0.5)
    stub = nursery.start(base)
    sampler = make(adapted, [stub])
    stub.fault(hang=True)
    with pytest.raises(ServerError, match=r"no answer of a few tokens within 0\.5 seconds"):
        sampler.servers[0].draw((5, 9), DECODING, 1)
    with pytest.raises(ServerError, match="no answer within"):
        sampler.servers[0].require_processed(DECODING, (5, 9))


def test_a_key_that_is_not_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def whole(*_: Any) -> httpx.Response:
        return httpx.Response(401, json={"error": "Unauthorized"})

    server = VllmServer("http://a/v1", "base")
    monkeypatch.setattr(httpx.AsyncClient, "stream", lambda *_, **__: nullcontext())
    monkeypatch.setattr(server._door, "_whole", whole)
    with pytest.raises(ServerError, match=r"HTTP 401, .*\(Unauthorized\): name the .* as sampler_api_key_env"):
        server.models()


def test_a_folder_that_a_server_cannot_read_is_named(servers: list[Any], tmp_path: Path) -> None:
    server = VllmServer(servers[0].url, "base")
    with pytest.raises(ServerError, match=r"No adapter found for .*elsewhere.*weight_transfer_dir"):
        AdapterTransfer("run").load(server, 0, tmp_path / "elsewhere", timeout_s=30)


def test_a_lost_adapter_is_handed_over_again(adapted: Policy, servers: list[Any], make: Make) -> None:
    sampler = make(adapted, servers[:1])
    learn(adapted)
    sampler.refresh(1)
    servers[0].forget()
    agree(sampler, adapted)
    assert sampler.told()["sampler_handed_over_again"] == 1


@pytest.mark.parametrize("fault", [{"nan": True}, {"no": ["/v1/completions"]}])
def test_wrong_answers_are_asked_of_another(
    fault: dict[str, Any], adapted: Policy, servers: list[Any], make: Make
) -> None:
    sampler = make(adapted, servers)
    sampler.refresh(0)
    servers[0].fault(**fault)
    agree(sampler, adapted)
    assert any(f"{servers[0].url} is left out" in line for line in make.said)  # type: ignore[attr-defined]


def test_a_server_that_dies_is_replaced_and_the_last_one_stops_the_run(
    adapted: Policy, nursery: Any, base: Path, make: Make
) -> None:
    stubs = [nursery.start(base), nursery.start(base)]
    sampler = make(adapted, stubs)
    sampler.refresh(0)
    stubs[0].fault(exit_after=1)
    agree(sampler, adapted)
    assert any("1 of 2 servers go on" in line for line in make.said)  # type: ignore[attr-defined]
    stubs[1].kill()
    with pytest.raises(RunStopped, match="no sampling server is left of 2"):
        sampler.sample(REQUESTS, DECODING)


def test_late_answers_are_left_out_and_too_few_stop_the_run(
    adapted: Policy, nursery: Any, base: Path, make: Make
) -> None:
    stub = nursery.start(base)
    sampler = make(adapted, [stub], deadline_s=0.5, patience_s=0.1, min_answered=0.0)
    sampler.refresh(0)
    stub.fault(hang=True)
    (first, *_), _ = sampler.sample(REQUESTS, DECODING)
    assert first.finish == ERROR
    assert first.text.startswith("late: no answer within 0.5 seconds from http")
    assert sampler.told()["sampler_late"] == 6
    assert any("waiting for 6 of 6 answers, the oldest since" in line for line in make.said)  # type: ignore[attr-defined]
    sampler.min_answered = 0.5
    with pytest.raises(RunStopped, match="only 0 of 6 answers came"):
        sampler.sample(REQUESTS, DECODING)


def test_a_slow_server_is_helped_out(adapted: Policy, nursery: Any, base: Path, make: Make) -> None:
    stubs = [nursery.start(base), nursery.start(base)]
    sampler = make(adapted, stubs, patience_s=0.2)
    sampler.refresh(0)
    stubs[0].fault(hang=True)
    agree(sampler, adapted)
    told = sampler.told()
    assert told["sampler_asked_again"] >= 3
    assert "sampler_late" not in told
    assert any(f"{stubs[1].url} is asked too" in line for line in make.said)  # type: ignore[attr-defined]


def test_figures_that_do_not_move_are_old_weights_where_rounding_cannot_hide_the_step() -> None:
    probe = Probe(torch.bfloat16)
    probe.figures = {0: [-3.0, -4.0], 1: [-3.03, -4.03], 2: [-3.031, -4.031]}
    assert probe.judge("http://a", [-3.01, -4.0], 0) == ""
    probe.answered["http://a"] = (0, [-3.01, -4.0])
    assert "have not moved in a single digit" in probe.judge("http://a", [-3.01, -4.0], 1)
    assert probe.judge("http://a", [-3.04, -4.03], 1) == ""
    probe.answered["http://a"] = (1, [-3.04, -4.03])
    assert probe.judge("http://a", [-3.04, -4.03], 2) == "", "a step of 0.001 nats is under what bf16 shows"


def test_weights_that_are_no_numbers_are_not_handed_over(adapted: Policy, servers: list[Any], make: Make) -> None:
    sampler = make(adapted, servers)
    learn(adapted, size=math.inf)
    with pytest.raises(ModelError, match="NaN or infinity"):
        sampler.refresh(0)


def test_a_folder_that_cannot_be_written_is_named(adapted: Policy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="weight_transfer_dir"):
        put(AdapterTransfer("run"), adapted, tmp_path / "file", 0)


def test_a_folder_is_there_whole_or_not_at_all(
    adapted: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = AdapterTransfer("run")

    def half(policy: Policy, folder: Path, state: Any) -> None:  # noqa: ARG001
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{")
        raise OSError("No space left on device")

    monkeypatch.setattr(transfer, "write", half)
    with pytest.raises(ModelError, match="No space left"):
        put(transfer, adapted, tmp_path, 0)
    assert not folder_of(transfer, tmp_path, 0).exists()
    assert not list(tmp_path.iterdir())


def test_what_vllm_cannot_take_is_refused(tiny: ModuleType) -> None:
    transfer = AdapterTransfer("run")
    with pytest.raises(ConfigError, match="needs use_peft"):
        transfer.check(whole(tiny))
    with pytest.raises(ConfigError, match="use_dora"):
        transfer.check(add_lora(whole(tiny), r=4, use_dora=True))
    with pytest.raises(ConfigError, match="adds tokens"):
        transfer.check(add_lora(whole(tiny), r=4, new_token_ids=[3]))


def alone(lock: threading.Lock, work: Callable[..., Any]) -> Callable[..., Any]:
    def held(*given: Any) -> Any:
        with lock:
            return work(*given)

    return held


def test_processes_hand_over_once_and_agree(
    adapted: Policy, servers: list[Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, as threads that wait for each other: the first alone hands over, both sample."""
    meet, held = threading.Barrier(2), {}

    def rank(number: int) -> dict[str, Any]:
        def by_main(work: Callable[[], Any]) -> Any:
            meet.wait(30)
            found = work() if number == 0 else None
            meet.wait(30)
            return found

        def from_main(record: Any) -> Any:
            if number == 0:
                held["record"] = record
            meet.wait(30)
            found = held["record"]
            meet.wait(30)
            return found

        return {"by_main": by_main, "from_main": from_main}

    transfer = AdapterTransfer(f"ranks-{id(meet)}")
    samplers = [make(adapted, servers, transfer, **rank(number)) for number in (0, 1)]
    lock = threading.Lock()  # processes have a model each, and these threads share one
    for sampler in samplers:
        monkeypatch.setattr(sampler.probe, "take", alone(lock, sampler.probe.take))
        monkeypatch.setattr(sampler, "_wrong", alone(lock, sampler._wrong))
    threads = [threading.Thread(target=sampler.refresh, args=(4,)) for sampler in samplers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for stub in servers:
        assert stub.seen()["loaded"].count(transfer.name(4)) == 1
    for sampler in samplers:
        agree(sampler, adapted)


def test_addresses_that_are_no_vllm_say_so(servers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    servers[0].fault(no=["/v1/models"])
    server = VllmServer(servers[0].url, "base")
    with pytest.raises(ServerError, match="does not know this path"):
        server.models()
    with pytest.raises(ServerError, match="nobody answers there"):
        VllmServer("http://127.0.0.1:9/v1", "base").models()
    monkeypatch.setattr(server, "call", lambda *_, **__: {"tokens": ["Two", "words"]})
    with pytest.raises(ServerError, match="tokens that are no ids"):
        server.read_text("Two words")
