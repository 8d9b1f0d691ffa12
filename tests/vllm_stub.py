"""What tests and benchmarks hold of vllm_server.py: servers on demand, their faults, and what they have seen."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Stub:
    """One server."""

    def __init__(self, url: str, process: int) -> None:
        self.url, self.process = url, process

    def fault(self, **faults: Any) -> None:
        """Go wrong from here on; without any, go right."""
        self._post("/fault", faults)

    def forget(self) -> None:
        """As if it were started anew."""
        self._post("/forget", {})

    def seen(self) -> Json:
        """What came so far."""
        return self._post("/seen", {})

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process, signal.SIGKILL)

    def _post(self, path: str, body: Json) -> Json:
        request = urllib.request.Request(self.url.removesuffix("/v1") + path, json.dumps(body).encode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            found: Json = json.loads(answer.read())
        return found


class Nursery:
    """A process that has torch loaded and forks servers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("vllm_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path) -> Stub:
        """A server of the model in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(folder, file=self._process.stdin, flush=True)
        url, process = self._process.stdout.readline().split()
        return Stub(url, int(process))

    def close(self) -> None:
        """End all of them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()
