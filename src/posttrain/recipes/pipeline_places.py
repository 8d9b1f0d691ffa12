"""Where the stages of a pipeline write, and what the references in their settings stand for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.evals.gates import is_passed
from posttrain.recipes.config import Config
from posttrain.recipes.pipeline_gate import checked
from posttrain.recipes.pipeline_graph import REFERENCE, Graph, Stage, replaced
from posttrain.recipes.pipeline_record import depends_on, digest
from posttrain.recipes.pipeline_stages import STAGES, Verb, settings_of

DOUBLED = re.compile(r"\{\{([\w./-]+)\}\}")  # braces that are meant as such


class Places:
    """The paths of one pipeline. `results`: by rounds a reference to the model that they leave, all of them unless a
    gate ended them before."""

    def __init__(self, output_dir: str, graph: Graph) -> None:
        self.output_dir, self.graph = output_dir, graph
        self.results = {name: rounds.results[-1] for name, rounds in graph.rounds.items()}
        self.stages: Mapping[str, Stage] = {stage.name: stage for stage in graph.stages}
        self.last_round: dict[str, int] = {}  # of rounds that a gate has ended

    def settings(self, stage: Stage) -> Config:
        """The stage's settings with the paths that its references stand for now."""
        given = {key: self._written(value) for key, value in stage.given.items()}
        start = self.path(stage.start)
        return settings_of(stage.name, stage.verb, given, place=str(self.place(stage.name)), model=start)

    def depends_on(self, stage: Stage) -> dict[str, Any]:
        """What tells whether the stage would do the same again."""
        return depends_on(self.settings(stage), self.verb(stage.name).out[0])

    def gates(self, stage: Stage) -> list[dict[str, Any]]:
        """What has come of each gate of a stage that is done: {gate, verdict, passed, said}."""
        return checked(stage.gates, stage.name, self.report)

    def has_failed_gates(self, stage: Stage) -> bool:
        """Whether the report of a stage has gates of its own, and not all passed."""
        return not is_passed(checked((), stage.name, self.report))

    def has_base(self, stage: Stage) -> bool:
        """Whether the stage measures another model beside its own, so that its gates may name `base`."""
        return stage.verb == "ledger" or getattr(self.settings(stage), "against", None) is not None

    def is_over(self, stage: Stage) -> bool:
        """Whether a gate ended the rounds before this one."""
        return stage.round > self.last_round.get(stage.rounds, stage.round)

    def end_rounds(self, stage: Stage) -> None:
        """The rounds of this stage end with the model of the round before, which did help."""
        self.last_round[stage.rounds] = stage.round - 1
        self.results[stage.rounds] = self.graph.rounds[stage.rounds].results[stage.round - 1]

    def path(self, reference: str) -> str:
        """What a text with a reference in it says: the path of a stage's product, of rounds the model they left."""
        return str(self._written(reference))

    def place(self, name: str) -> Path:
        """Where a stage writes, but for the ending."""
        return Path(self.output_dir) / name

    def made(self, name: str) -> list[Path]:
        """What a stage leaves, the main thing first."""
        return [Path(f"{self.place(name)}{ending}") for ending in self.verb(name).makes.values()]

    def traces(self, name: str) -> dict[str, str]:
        """Digests of the files that a stage has left so far, and of its report; they tell a run from the next."""
        places = {*self.made(name), Path(f"{self.place(name)}{self.verb(name).report}")}
        return {str(path): digest(path) for path in sorted(places) if path.is_file()}

    def report(self, name: str) -> Path:
        """The JSON file with the figures of a stage, which a gate may ask for. ConfigError where it has none."""
        if name not in self.stages:
            raise ConfigError(f"{name!r} is no single stage, which alone has figures; name a stage.")
        if not (ending := self.verb(name).report):
            raise ConfigError(f"{name!r} is of the verb `{self.stages[name].verb}`, which reports no figures.")
        return Path(f"{self.place(name)}{ending}")

    def verb(self, name: str) -> Verb:
        """What kind of stage it is."""
        return STAGES[self.stages[name].verb]

    def _written(self, value: Any) -> Any:
        found = replaced(value, REFERENCE, lambda found: self._product(found[1], found[2] or ""))
        return replaced(found, DOUBLED, lambda found: f"{{{found[1]}}}")

    def _product(self, name: str, product: str) -> str:
        if name == "output_dir":
            return self.output_dir
        if name == "start":
            return self.graph.start
        if name in self.results:
            return self.path(self.results[name])
        makes = self.verb(name).makes
        if product not in makes:
            known = ", ".join(f"{{{name}.{other}}}" if other else f"{{{name}}}" for other in makes)
            raise ConfigError(
                f"{{{name}.{product}}} names nothing that `{self.stages[name].verb}` makes; there is {known}."
            )
        return f"{self.place(name)}{makes[product]}"
