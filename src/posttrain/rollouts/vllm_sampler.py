"""Policies that are sampled on vLLM servers while they are trained here: hand-over, probe, and what to do without one.

In several processes all of them call `refresh`; process 0 alone writes and speaks to the servers about weights. Each
samples its own share of prompts.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from posttrain.errors import RunStopped
from posttrain.models.load import Policy
from posttrain.rollouts.endpoint import ServerError
from posttrain.rollouts.http import ERROR
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.rollouts.vllm import VllmServer
from posttrain.rollouts.vllm_dispatch import PATIENCE_S, Counts, Dispatch, Job
from posttrain.rollouts.vllm_probe import NUM_DRAWN, Probe, apart, score_drawn
from posttrain.rollouts.vllm_transfer import AdapterTransfer, ReloadTransfer, State, Transfer, folder_of, put

T = TypeVar("T")
HAND_OVER_S = 600.0
LOOK_S = 5.0  # to see whether a server that was left out is back


def _alone(work: Callable[[], T]) -> T:
    return work()


class VllmSampler:
    """A Sampler on several servers. `decoding`: how rollouts are drawn, for the probe. `place`: the folder that the
    servers read weights from. `deadline_s`: for all answers of one turn; what is late is left out, and with less than
    `min_answered` of them the run stops. `whole`: the weights of a policy that every process holds a share of.
    `by_main(work)`: `work()` in process 0, the others wait and fail with it; `from_main(record)`: process 0's, for all
    (train/distributed.py).
    """

    def __init__(
        self,
        policy: Policy,
        servers: Sequence[VllmServer],
        transfer: Transfer,
        place: Path,
        *,
        decoding: Decoding,
        dtype: torch.dtype = torch.float32,
        deadline_s: float = 600.0,
        hand_over_s: float = HAND_OVER_S,
        min_answered: float = 0.5,
        say: Callable[[str], None] = lambda _: None,
        patience_s: float = PATIENCE_S,
        whole: Callable[[Policy], State] = lambda _: None,
        by_main: Callable[[Callable[[], Any]], Any] = _alone,
        from_main: Callable[[Any], Any] = lambda record: record,
    ) -> None:
        self.policy, self.servers, self.transfer, self.place = policy, list(servers), transfer, place
        self.decoding, self.hand_over_s, self.min_answered, self.say = decoding, hand_over_s, min_answered, say
        self.whole, self.by_main, self.from_main = whole, by_main, from_main
        self.probe = Probe(dtype)
        self.dispatch = Dispatch(deadline_s=deadline_s, say=say, again=self._again, patience_s=patience_s)
        self.version = -1
        self._folder = place
        self._live: list[VllmServer] = []
        self._why: dict[str, str] = {}
        self._told: dict[str, float] = {}

    # --- weights ---

    def refresh(self, version: int) -> None:
        """Hand the policy's present weights to every server and see that it serves them. Servers that cannot are left
        out, until the next time. Raises RunStopped, with what each of them said, where none is left."""
        started = time.perf_counter()
        before, is_new = self.version, version != self.version
        self.by_main(lambda: None)  # nobody samples any more
        self.probe.take(self.policy, version)
        if is_new:
            self._folder = folder_of(self.transfer, self.place, version)
            state = self.whole(self.policy)
            self.by_main(lambda: put(self.transfer, self.policy, self.place, version, state))
        self._why = self.from_main(self.by_main(lambda: self._hand_over(version))) or {}
        self.version = version
        self._live = [server for server in self.servers if server.url not in self._why]
        self._name_all(version)
        self._check_drawn()
        self._require_one()
        if is_new and before >= 0:
            self.by_main(lambda: self._drop(before))
        self._told["hand_over_s"] = time.perf_counter() - started

    def _drop(self, version: int) -> None:
        for server in self._live:
            self.transfer.drop(server, version)

    def release(self) -> None:
        """Servers keep their memory."""

    def _hand_over(self, version: int) -> dict[str, str]:
        """Process 0: every server, at the same time. Returns those that do not serve the version, and why."""

        def to(server: VllmServer) -> str:
            was_out = server.url in self._why
            try:
                if was_out:
                    server.call("GET", "/v1/models", timeout_s=LOOK_S)
                if version != self.version or was_out:
                    self.transfer.load(server, version, self._folder, timeout_s=self.hand_over_s)
                self._verify(server, version)
            except ServerError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(len(self.servers)) as pool:
            found = dict(zip([server.url for server in self.servers], pool.map(to, self.servers), strict=True))
        why = {url: said for url, said in found.items() if said}
        for url in found:
            if url in why and url not in self._why and len(why) < len(found):
                self.say(f"left out: {why[url]}")
            elif url in self._why and url not in why:
                self.say(f"{url} is back, with version {version}")
        return why

    def _verify(self, server: VllmServer, version: int) -> None:
        """Raises ServerError where a server does not serve a version."""
        found = server.score(self.probe.ids, len(self.probe.prompt))
        wrong = self.probe.judge(server.url, found, version)
        mark = server.weights_are() if isinstance(self.transfer, ReloadTransfer) else ""
        if isinstance(self.transfer, ReloadTransfer) and mark.rpartition("-v")[0] not in ("", self.transfer.label):
            wrong = f"another trainer has handed weights over to it, {mark!r}" if "-v" in mark else wrong
        if wrong:
            raise ServerError(f"{server.url}: {wrong}.")
        self.probe.answered[server.url] = (version, found)
        self._told["probe_gap"] = max(apart(found, self.probe.figures[version]), self._told.get("probe_gap", 0.0))

    def _name_all(self, version: int) -> None:
        """In the other processes nobody has loaded anything: the name is enough."""
        name = getattr(self.transfer, "name", None)
        for server in self._live:
            server.model = server.base_model if name is None else name(version)

    def _check_drawn(self) -> None:
        """A few tokens drawn as rollouts are, scored by the trainer: temperature, prefix cache and log-probabilities
        on that path are right too."""
        heard = self.from_main(self.by_main(self._drawn)) or {}
        for server in list(self._live):
            found = heard.get(server.url, "")
            wrong = found if isinstance(found, str) else self._wrong(*found)
            if wrong:
                self._leave_out(server, wrong)

    def _drawn(self) -> dict[str, Any]:
        decoding = Decoding(NUM_DRAWN, temperature=self.decoding.temperature)
        heard: dict[str, Any] = {}
        for server in self._live:
            try:
                server.require_processed(decoding, self.probe.prompt)
                found = server.draw(self.probe.prompt, decoding, self.version + 1)
                heard[server.url] = (list(found.token_ids), list(found.logps))
            except ServerError as error:
                heard[server.url] = str(error)
        return heard

    def _wrong(self, ids: list[int], logps: list[float]) -> str:
        wanted = score_drawn(self.policy, self.probe.prompt, ids, self.decoding.temperature)
        gap, bound = apart(logps, wanted), self.probe.bound(wanted)
        if gap <= bound:
            return ""
        return (
            f"the log-probabilities of {len(ids)} tokens that it drew itself are {gap:.3g} apart from the trainer's "
            f"(at most {bound:.2g}), though those of the probe agree: a prefix cache of old weights, or another "
            "temperature (start vLLM with --logprobs-mode processed_logprobs)."
        )

    def _again(self, server: VllmServer) -> None:
        """A server has lost the version that is sampled: it gets it once more."""
        self.transfer.load(server, self.version, self._folder, timeout_s=self.hand_over_s)
        self._verify(server, self.version)

    # --- answers ---

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[list[Completion]]:
        """See Sampler. Raises RunStopped where no server is left, or too little came in time."""
        if self.version < 0:
            self.refresh(0)
        jobs = [Job(request, seed) for request in requests for seed in request.seeds]
        open_ones, ends = jobs, time.monotonic() + self.dispatch.deadline_s
        while open_ones:
            self._require_one()
            out = self.dispatch.run(open_ones, self._live, decoding, left_s=ends - time.monotonic())
            for url, why in out.items():
                self._forget(url, why)
            open_ones = self._doubted(open_ones, out)
        self._require_enough(jobs)
        answers = iter(job.found for job in jobs)
        return [[_there(next(answers)) for _ in request.seeds] for request in requests]

    def _doubted(self, jobs: Sequence[Job], out: Collection[str]) -> list[Job]:
        """Answers of servers that do not serve the version now that they are done, to be asked for again. Of those that
        are out, nobody knows any more what they served, unless a name says it."""
        is_named = isinstance(self.transfer, AdapterTransfer)
        doubted = [] if is_named else [job for job in jobs if job.server in out]
        for server in list(self._live):
            own = [job for job in jobs if job.server == server.url]
            if not own:
                continue
            try:
                self._verify(server, self.version)
            except ServerError as error:
                self._leave_out(server, f"its {len(own)} answers are not taken: {error}")
                doubted += own
        for job in doubted:
            job.found, job.server, job.refused, job.begun = None, "", {}, {}
        return doubted

    def _leave_out(self, server: VllmServer, why: str) -> None:
        self.say(f"{server.url} is left out: {why}")
        self.dispatch.counts.servers_left_out += 1
        self._forget(server.url, why)

    def _forget(self, url: str, why: str) -> None:
        self._why[url] = why
        self._live = [server for server in self._live if server.url != url]

    def _require_one(self) -> None:
        if not self._live:
            said = " ".join(why if url in why else f"{url}: {why}" for url, why in self._why.items())
            raise RunStopped(f"no sampling server is left of {len(self.servers)}. {said}")

    def _require_enough(self, jobs: Sequence[Job]) -> None:
        came = sum(job.found is not None and job.found.finish != ERROR for job in jobs)
        if came < self.min_answered * len(jobs):
            self._require_one()
            why = next(job.found.text for job in jobs if job.found is not None and job.found.finish == ERROR)
            raise RunStopped(
                f"only {came} of {len(jobs)} answers came from the sampling servers, fewer than min_answered "
                f"{self.min_answered:g}: {why.rstrip('.')}. Add servers, or raise sampler_timeout."
            )

    def told(self) -> dict[str, float]:
        """What the log says of the servers since it was last asked."""
        counts, self.dispatch.counts = self.dispatch.counts, Counts()
        found, self._told = self._told, {}
        found["sampler_servers"] = float(len(self._live))
        for name in ("late", "failed", "asked_again", "servers_left_out", "handed_over_again"):
            if getattr(counts, name):
                found[f"sampler_{name}"] = float(getattr(counts, name))
        return found


def _there(found: Completion | None) -> Completion:
    assert found is not None
    return found
