"""Which folders are served under which names, and the thread that loads them and follows a pipeline's good model."""

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import ConfigError, PosttrainError
from posttrain.recipes.good_model import FILE
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.serve_config import ServeConfig
from posttrain.serve.doors import Engine
from posttrain.serve.service import AUTO

EVERY_S = 1.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Named:
    """A model as it was given, and its name in the API."""

    name: str
    given: str

    @property
    def folder(self) -> str:
        """Where it lies now. Raises ConfigError where a folder's `good` names nothing."""
        return resolve_model(self.given)

    @property
    def stamp(self) -> tuple[int, ...]:
        """Changes when the file that names the good model is written; () where there is none."""
        try:
            found = (Path(self.given) / FILE).stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def named_models(config: ServeConfig) -> list[Named]:
    """The models of a recipe. Raises ConfigError where two have one name."""
    if not config.models:
        raise ConfigError("models is empty: name a folder, or leave it out for the embedded model.")
    names = config.served_model_name or [Path(given.rstrip("/")).name or given for given in config.models]
    if len(names) != len(config.models):
        raise ConfigError(
            f"served_model_name has {len(names)} names for {len(config.models)} models; give one for each, or none."
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two models have the name {twice!r}; tell them apart with --served-model-name NAME, one each."
        )
    if AUTO in names:
        raise ConfigError(f"served_model_name: {AUTO!r} is the name of the A/B test; take another.")
    return [Named(name, given) for name, given in zip(names, config.models, strict=True)]


class Loading(threading.Thread):
    """Loads the models one after the other, says `ready`, and then looks every second whether a `good` has changed.

    A model that cannot be loaded at the start ends the server (`failed` is told, `error` holds why); one that cannot
    later on is said, and the one before goes on answering.
    """

    def __init__(
        self,
        engine: Engine,
        models: Sequence[Named],
        *,
        ready: Callable[[], None],
        failed: Callable[[], None],
        say: Say,
        follow: bool = True,
    ) -> None:
        super().__init__(name="models", daemon=True)
        self.engine, self.models, self.say, self.follow = engine, list(models), say, follow
        self.ready, self.failed = ready, failed
        self.error: BaseException | None = None
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._wake, self._is_over, self._everything = threading.Event(), False, False

    def run(self) -> None:
        """See threading.Thread."""
        try:
            for model in self.models:
                self._load(model)
        except BaseException as error:
            self.error = error
            self.failed()
            return
        self.ready()
        while True:
            self._wake.wait(EVERY_S)
            self._wake.clear()
            if self._is_over:
                return
            self._look()

    def again(self) -> None:
        """Load every model anew, now."""
        self._everything = True
        self._wake.set()

    def on_hangup(self) -> None:
        """Do so when the process is told to (SIGHUP), where there is such a signal."""
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: self.again())

    def close(self) -> None:
        """Look no more."""
        self._is_over = True
        self._wake.set()
        with suppress(RuntimeError):  # it was never started
            self.join(timeout=5)

    def _look(self) -> None:
        everything, self._everything = self._everything, False
        for model in self.models:
            stamp = model.stamp
            is_new = self.follow and stamp and stamp != self._stamps[model.name]
            if not (everything or is_new):
                continue
            try:
                self._load(model)
            except (PosttrainError, OSError, ValueError) as error:
                self._stamps[model.name] = stamp  # tried again when it is written again
                self.say(f"{model.name}: the new model cannot be loaded, the one before goes on: {error}")

    def _load(self, model: Named) -> None:
        self._stamps[model.name] = model.stamp
        folder = model.folder
        self.engine.load_model(model.name, folder)
        self.say(f"{model.name}: {folder}")
