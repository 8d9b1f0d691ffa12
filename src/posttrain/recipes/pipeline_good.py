"""The last good model of a pipeline: the one of the last training stage that all gates on it have let pass."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.whole_files import write_text
from posttrain.errors import PosttrainError
from posttrain.recipes.good_model import FILE
from posttrain.recipes.pipeline_graph import REFERENCE, Stage
from posttrain.recipes.pipeline_places import Places
from posttrain.recipes.pipeline_record import Book, digest
from posttrain.recipes.pipeline_stages import STAGES


class Good:
    """Which models have passed their gates. The last of them is named in pipeline.json under `good`, and by its path in
    the file `good` beside it (one line of text, no link: it survives copies and archives), which is there only while
    that model is."""

    def __init__(self, places: Places, book: Book, start: str, say: Callable[[str], None]) -> None:
        self.places, self.book, self.start, self.say = places, book, start, say
        self.file = Path(places.output_dir) / FILE
        self.order = [stage.name for stage in places.graph.stages]
        self.proven: dict[str, list[str]] = {}  # by training stage what its gates said
        before = book.good
        if before and before.get("stage") in self.order and places.made(before["stage"])[0].exists():
            self.proven[before["stage"]] = list(before.get("gates", []))
        self.heard: dict[str, list[str]] = {}  # by training stage what its gates say in this run
        self.failed: set[str] = set()

    def settle(self) -> None:
        """Make the book and the file say the same: a kill may have come between them, or the folder has moved."""
        if self.book.good or self.file.exists():
            self._write()

    def hear(self, stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the gates of a stage said, of which there is at least one."""
        name = self._judged(stage)
        if not name:
            return
        if not all(row["passed"] for row in rows):
            self.failed.add(name)
        if name not in self.failed:
            known = self.heard.setdefault(name, [])
            known += [row["said"] for row in rows if row["said"] not in known]
            self.proven[name] = known
        else:
            self.proven.pop(name, None)
        self._write()

    def withdraw(self, stage: Stage) -> None:
        """The stage is about to make its model anew: what was said of the old one is said no more."""
        self.failed.discard(stage.name)
        self.heard.pop(stage.name, None)
        if stage.name not in self.proven:
            return
        was = self.book.good.get("stage") == stage.name
        del self.proven[stage.name]
        self._write()
        if was:
            self.say(f"{stage.name!r} held the last good model and is made anew: now {self.told()}")

    def told(self) -> str:
        """The last good model in words."""
        found = self.book.good
        if not found:
            return f"no model of this pipeline has passed its gates; it began with {self.start}"
        return f"the last good model is {found['model']} (stage {found['stage']!r}), which {self.file} names"

    def _judged(self, stage: Stage) -> str:
        """The training stage whose model the gates of a stage are about: its own; else of the model that it is asked
        about, of two compared the first, in a ledger the last; "" where that one is from elsewhere."""
        if STAGES[stage.verb].trains:
            return stage.name
        given = stage.given.get("model", stage.start)
        found = REFERENCE.fullmatch(
            str(given[STAGES[stage.verb].asked] if isinstance(given, list) and given else given)
        )
        while found and found[1] in self.places.results:
            found = REFERENCE.fullmatch(self.places.results[found[1]])
        name = found[1] if found else ""
        return name if name in self.order and STAGES[self.places.stages[name].verb].trains else ""

    def _write(self) -> None:
        last = max(self.proven, key=self.order.index, default="")
        model = str(self.places.made(last)[0]) if last else ""
        about = {"stage": last, "model": model, "gates": self.proven[last]} if last else {}
        if about != {key: value for key, value in self.book.good.items() if key != "content"}:
            self.book.good = about | {"content": digest(Path(model))} if last else {}
            self.book.save()
        try:
            if last and not (self.file.is_file() and self.file.read_text(encoding="utf-8") == model + "\n"):
                write_text(self.file, model + "\n")
            elif not last:
                self.file.unlink(missing_ok=True)
        except OSError as error:
            raise PosttrainError(f"{self.file}: cannot be written: {error.strerror}.") from error
