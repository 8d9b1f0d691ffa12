"""`posttrain run`: the stages of a recipe. A stage that is done is passed over for as long as what it depends on is the
same, one that was interrupted goes on, so the same command finishes what it began."""

import time

from rich.console import Console

from posttrain.errors import ConfigError, PosttrainError
from posttrain.evals.gates import is_passed
from posttrain.recipes.good_model import good_model
from posttrain.recipes.pipeline_config import PipelineConfig
from posttrain.recipes.pipeline_gate import check_gate
from posttrain.recipes.pipeline_good import Good
from posttrain.recipes.pipeline_graph import Graph, Stage
from posttrain.recipes.pipeline_places import Places
from posttrain.recipes.pipeline_plan import show_plan
from posttrain.recipes.pipeline_reading import graph_of
from posttrain.recipes.pipeline_record import Book, changes, is_done


def run(config: PipelineConfig) -> int:
    """Check every stage, then run what is not done yet."""
    pipeline = Pipeline(config, Console(highlight=False, soft_wrap=True))
    if config.plan:
        show_plan(pipeline.graph, pipeline.places, pipeline.book, pipeline.say)
        return 0
    return pipeline.run()


class Pipeline:
    """A recipe of stages, checked whole. Fails by ConfigError that names the stage; nothing has run then."""

    def __init__(self, config: PipelineConfig, console: Console) -> None:
        # A live folder's present version, once for all stages: the pipeline itself may promote another.
        self.book = Book(config.output_dir)
        config = config.model_copy(update={"model": self.book.start_of(config.model, good_model(config.model))})
        self.console, self.overwrites = console, config.overwrite_output_dir
        self.graph: Graph = graph_of(config)
        self.places = Places(config.output_dir, self.graph)
        for stage in self.graph.stages:
            self.places.settings(stage)
            for gate in stage.gates:
                check_gate(gate, stage.name, self.places.report, has_base=self.places.has_base(stage))
        self.good = Good(self.places, self.book, config.model, self.say)

    def run(self) -> int:
        """Every stage in order; the exit code of the first that fails, 1 where a gate stops the pipeline."""
        self.good.settle()
        for number, stage in enumerate(self.graph.stages, 1):
            if self.places.is_over(stage):
                continue
            self.console.rule(f"stage {number} of {len(self.graph.stages)}: {stage.name}")
            if code := self._do(stage):
                return code
            if not self._passes(stage):
                if not stage.rounds:
                    self.say(f"the pipeline ends at {stage.name!r}, whose gates did not pass; {self.good.told()}")
                    return 1
                self._end(stage)
        last = self.places.path(self.graph.result)
        self.say(f"every stage is done; talk with the last one: posttrain chat {last}")
        return 0

    def say(self, text: str) -> None:
        """A line for the user, as it is."""
        self.console.print(text, markup=False)

    def _do(self, stage: Stage) -> int:
        """Run a stage unless it is done; its exit code."""
        known, made = self.book.stages.get(stage.name), self.places.made(stage.name)[0]
        depends = self.places.depends_on(stage)
        differ = changes(known["depends_on"], depends) if known else []
        if known and is_done(known, self.places.made(stage.name)) and not (differ or self.overwrites):
            self.say(f"done before: {made}")
            return 0
        if not known and made.exists() and not self.overwrites:
            raise ConfigError(
                f"stage {stage.name!r}: {made} is there and was not made by this pipeline; give another output_dir, or "
                "--overwrite-output-dir to replace it."
            )
        if known and differ:
            self.say(f"changed since it was {known['state']}, so it is done anew: {', '.join(differ[:5])}")
        self.good.withdraw(stage)
        # One that was to begin anew and was interrupted before it did finds what stood there before.
        there = self.places.traces(stage.name)
        anew = bool(differ) or self.overwrites or bool(known and there and known.get("replaces") == there)
        settings = self.places.settings(stage).model_copy(update=self._again(stage, anew=anew))
        began = time.monotonic()
        self.book.set(
            stage.name, verb=stage.verb, state="started", depends_on=depends, needs=list(stage.needs),
            replaces=there if anew else {}, made=[],
        )  # fmt: skip
        try:
            code = self.places.verb(stage.name).run(settings)
            # An evaluation with gates of its own ends so where they do not pass: it is done, and its gates are heard.
            code = 0 if code == 1 and self.places.has_failed_gates(stage) else code
        except PosttrainError as error:
            self.book.set(stage.name, state="failed", error=str(error))
            self.say(f"stage {stage.name!r} failed; what is done stays done, and the same command goes on from here")
            raise
        told = {"state": "failed", "error": f"exit code {code}"} if code else {"state": "done", "error": ""}
        left = [str(path) for path in self.places.made(stage.name) if path.exists()]
        self.book.set(stage.name, **told, seconds=round(time.monotonic() - began, 1), made=left)
        return code

    def _again(self, stage: Stage, *, anew: bool) -> dict[str, bool]:
        """The keys that make a stage go on with what it left, or begin anew."""
        verb = self.places.verb(stage.name)
        if "resume_from_checkpoint" not in verb.config_class().model_fields:
            return {verb.anew: anew} if verb.anew else {}
        # A training run without a checkpoint has nothing to go on with.
        resumes = not anew and any(self.places.place(stage.name).glob("checkpoint-*"))
        return {"resume_from_checkpoint": resumes, verb.anew: not resumes}

    def _passes(self, stage: Stage) -> bool:
        found = self.places.gates(stage)
        for row in found:
            self.say(f"gate {row['verdict']}: {row['said']}")
        if found:
            self.book.set(stage.name, gates=found)
            self.good.hear(stage, found)
        return is_passed(found)

    def _end(self, stage: Stage) -> None:
        self.places.end_rounds(stage)
        kept = self.places.path(f"{{{stage.rounds}}}")
        self.say(f"round {stage.round} of {stage.rounds!r} did not help: its rounds end here, and {kept} stays")
