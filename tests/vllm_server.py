"""Servers in processes of their own that speak what posttrain asks of vLLM, on the project's own sampler, and that can
be told to go wrong. Every line of stdin is a model folder and starts one; its address and its process id are printed.

POST /fault {name: value} plants faults, {} mends all: `stale` (success, but the weights before go on being served),
`garbage` (success, but what is served is neither), `lie` (nats added to log-probabilities of what is drawn), `raw`
(log-probabilities from before temperature), `echo` (other prompt ids come back), `nan`, `other_ids`, `hang` (no answer
at all), `mute` (paths that never answer), `exit_after` (answers, then the process ends), `no` (paths that are not
there), `room` (tokens that it takes), `refuse` (a sentence, with status 500, in place of a hand-over).
POST /forget starts it anew with the base alone. GET /seen tells what came.
"""

import copy
import json
import math
import os
import queue
import signal
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from posttrain.models.attention import install_attention
from posttrain.models.load import Policy, load, load_weights
from posttrain.rollouts.decode_probe import trained_logps
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.sampling import Completion, Decoding, Request

NAME = "base"
Json = dict[str, Any]


@dataclass
class Asked:
    """One answer that is wanted, and where it goes."""

    model: str
    decoding: Decoding
    request: Request
    found: "Future[Completion]" = field(default_factory=Future)


class Engine:
    """The models by name, and one thread that answers whatever waits in one batch."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        self.folder, self.mark = folder, "default"
        self.faults: Json = {}
        self.seen: Json = {"completions": 0, "names": [], "loaded": [], "unloaded": [], "calls": [], "batches": 0}
        self.lock = threading.RLock()
        self.waiting: queue.Queue[Asked] = queue.Queue()
        self.start()
        threading.Thread(target=self._work, daemon=True).start()

    def start(self) -> None:
        self.base = load(self.folder)
        install_attention(self.base.model)
        self.served = {NAME: _sampler(self.base)}
        self.roots = {NAME: self.folder}

    def load_adapter(self, name: str, path: str) -> tuple[int, Json]:
        if name in self.served:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if not Path(path, "adapter_model.safetensors").is_file():
            return 404, {"error": {"message": f"No adapter found for {path}"}}
        with self.lock:
            newest = list(self.served.values())[-1]
            if self.faults.get("stale") and len(self.served) > 1:
                self.served[name] = newest
            else:
                model = PeftModel.from_pretrained(copy.deepcopy(self.base.model), path)
                self.served[name] = _sampler(Policy(model, self.base.tokenizer, name))
            if self.faults.get("garbage"):
                _disturb(self.served[name])
        self.roots[name] = path
        self.seen["loaded"].append(name)
        return 200, {}

    def unload_adapter(self, name: str) -> tuple[int, Json]:
        if name not in self.served:
            return 404, {"error": {"message": f"The lora adapter '{name}' cannot be found."}}
        with self.lock:
            del self.served[name], self.roots[name]
        self.seen["unloaded"].append(name)
        return 200, {}

    def reload(self, path: str) -> tuple[int, Json]:
        with self.lock:
            if not self.faults.get("stale"):
                model = load_weights(path, torch.float32)
                self.base.model.load_state_dict(model.state_dict())
                self.served[NAME] = _sampler(self.base)
            if self.faults.get("garbage"):
                _disturb(self.served[NAME])
        return 200, {"results": [None]}

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            time.sleep(0.002)  # what comes at the same time is answered together
            while not self.waiting.empty():
                batch.append(self.waiting.get())
            groups: dict[Any, list[Asked]] = {}
            for asked in batch:
                groups.setdefault((asked.model, asked.decoding), []).append(asked)
            for (model, decoding), group in groups.items():
                self.seen["batches"] += 1
                try:
                    with self.lock:
                        answers = self.served[model].sample([asked.request for asked in group], decoding)
                    for asked, (answer,) in zip(group, answers, strict=True):
                        asked.found.set_result(answer)
                except Exception as error:
                    for asked in group:
                        asked.found.set_exception(error)

    def complete(self, body: Json) -> tuple[int, Json]:
        name, faults = body["model"], self.faults
        if name not in self.served:
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        size = self.base.model.get_input_embeddings().weight.shape[0]
        if max(body["prompt"]) >= size:
            return 400, {"error": {"message": f"Token id {max(body['prompt'])} is out of vocabulary"}}
        if "prompt_logprobs" in body:
            return 200, {"choices": [{"prompt_logprobs": self._score(name, body["prompt"])}]}
        with self.lock:
            self.seen["completions"] += 1
            self.seen["names"].append(name)
            number = self.seen["completions"]
        if faults.get("exit_after") is not None:
            faults["exit_after"] -= 1
            if faults["exit_after"] < 0:
                os._exit(1)
        if faults.get("hang"):
            time.sleep(3600)
        decoding = Decoding(
            body["max_tokens"],
            body["temperature"],
            body.get("top_p", 1.0),
            max(body.get("top_k", 0), 0),
            stop_token_ids=tuple(body.get("stop_token_ids", ())),
            stop_strings=tuple(body.get("stop", ())),
        )
        asked = Asked(name, decoding, Request(tuple(body["prompt"]), (body["seed"],)))
        self.waiting.put(asked)
        found = asked.found.result()
        ids, logps = list(found.token_ids), list(found.logps)
        if faults.get("raw"):
            policy = self.served[name].policy
            whole = torch.tensor([*body["prompt"], *ids])
            logps = trained_logps(policy, whole, num_prompt=len(body["prompt"])).tolist()
        logps = [min(logp + faults.get("lie", 0.0), 0.0) for logp in logps]
        if faults.get("nan"):
            logps[0] = math.nan
        if faults.get("other_ids"):
            ids = [(id + 1) % size for id in ids]
        choice = {
            "text": found.text,
            "finish_reason": found.finish,
            "token_ids": ids,
            "prompt_token_ids": [0, *body["prompt"]] if faults.get("echo") else body["prompt"],
            "logprobs": {"token_logprobs": logps, "tokens": [f"token_id:{id}" for id in ids]},
        }
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        return 200, {"id": str(number), "choices": [choice], "usage": usage}

    def _score(self, name: str, ids: list[int]) -> list[Any]:
        with self.lock, torch.no_grad():
            policy = self.served[name].policy
            logps = trained_logps(policy, torch.tensor(ids), num_prompt=1).tolist()
        return [None, *({str(id): {"logprob": logp}} for id, logp in zip(ids[1:], logps, strict=True))]

    def answer(self, path: str, body: Json) -> tuple[int, Json]:
        """What every path does."""
        path, _, query = path.partition("?")
        if path in self.faults.get("no", ()):
            return 404, {"detail": "Not Found"}
        if path not in ("/v1/completions", "/seen", "/fault"):
            self.seen["calls"].append(path)
        if path in self.faults.get("mute", ()):
            time.sleep(3600)
        hands_over = path in ("/v1/load_lora_adapter", "/collective_rpc")
        if hands_over and self.faults.get("refuse"):
            return 500, {"error": {"message": self.faults["refuse"]}}
        if path == "/fault":
            self.faults = body
        if path == "/forget":
            self.start()
        models = [{"id": n, "root": r, "parent": None if n == NAME else NAME} for n, r in self.roots.items()]
        found: dict[str, Any] = {
            "/version": lambda: (200, {"version": "0.32.0"}),
            "/v1/models": lambda: (
                200,
                {"data": [m | {"max_model_len": self.faults.get("room", 512)} for m in models]},
            ),
            "/v1/completions": lambda: self.complete(body),
            "/v1/load_lora_adapter": lambda: self.load_adapter(body["lora_name"], body["lora_path"]),
            "/v1/unload_lora_adapter": lambda: self.unload_adapter(body["lora_name"]),
            "/collective_rpc": lambda: self.reload(body["kwargs"]["weights_path"]),
            "/pause": lambda: (200, {"status": query}),
            "/resume": lambda: (200, {}),
            "/reset_prefix_cache": lambda: (200, {"success": True}),
            "/tokenize": lambda: (
                200,
                {"tokens": self.base.tokenizer.encode(body["prompt"], add_special_tokens=False)},
            ),
            "/weight_info": lambda: (200, {"weight_version": self.mark}),
            "/update_weight_version": lambda: self._mark(body["new_version"]),
            "/seen": lambda: (200, self.seen),
            "/fault": lambda: (200, {}),
            "/forget": lambda: (200, {}),
        }
        work = found.get(path)
        return work() if work else (404, {"detail": "Not Found"})

    def _mark(self, mark: str) -> tuple[int, Json]:
        self.mark = mark
        return 200, {}


def _sampler(policy: Policy) -> PolicySampler:
    install_attention(policy.model)
    found = PolicySampler(policy, dtype=torch.float32)
    found.refresh(0)
    return found


def _disturb(sampler: PolicySampler) -> None:
    with torch.no_grad():
        for parameter in sampler.policy.model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    sampler.refresh(0)


class Handler(BaseHTTPRequestHandler):
    """JSON in, JSON out."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._reply(json.loads(content) if content else {})

    def _reply(self, body: Json) -> None:
        try:
            status, found = self.engine.answer(self.path, body)
        except Exception as error:
            status, found = 500, {"error": {"message": f"{type(error).__name__}: {error}"}}
        content = json.dumps(found).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # nobody waits any more

    def log_message(self, *_: Any) -> None: ...


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a test opens."""

    request_queue_size = 128
    daemon_threads = True


def serve(folder: str) -> None:
    """Until the process is killed."""
    Handler.engine = Engine(folder)
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1 {os.getpid()}", flush=True)
    server.serve_forever()


def main() -> None:
    """For every line a child that has all imports already."""
    children = []
    for line in sys.stdin:
        child = os.fork()
        if not child:
            serve(line.strip())
        children.append(child)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
