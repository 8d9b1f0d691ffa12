"""From a file of guardrails to the Guard that a server asks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from posttrain.recipes.guardrails_config import (
    AskedKeys,
    ClassifierKeys,
    JudgeRuleKeys,
    LengthKeys,
    PatternKeys,
    PersonalDataKeys,
    RuleKeys,
    TopicsKeys,
)
from posttrain.recipes.guardrails_models import ModelMaker, ask_classifier, ask_judge
from posttrain.recipes.guardrails_reading import GuardrailsFile
from posttrain.recipes.guardrails_words import patterns, topics
from posttrain.serve.guard import Guardrails
from posttrain.serve.guard_blocks import BlockRule, LengthRule, Look, Redact, redacting
from posttrain.serve.guard_log import DecisionLog
from posttrain.serve.guard_models import by_judge, by_score
from posttrain.serve.guard_patterns import PatternRule
from posttrain.serve.guard_stage import Rule

MAX_BLOCK = 20_000  # of a message in which personal data is looked for


def read_guardrails(
    path: str | Path,
    *,
    log: str | Path | DecisionLog | Literal[False] | None = None,
    redact: Redact | None = None,
    models: ModelMaker | None = None,
    say: Callable[[str], None] | None = None,
) -> Guardrails:
    """The rules of a file, ready to be asked.

    `log`: file for the decisions, False for none; left out, what the rules say. `redact`: for rules on personal data;
    left out, that of feedback/personal_data.py. `models`: loads the models that rules name (guardrails_models.py).
    `say`: told what was read.

    DataError names file, line, rule and field of what is wrong; ModelError where a model is not to be had.
    """
    file = GuardrailsFile(path)
    maker = models or ModelMaker(say)
    rules = [
        rule for number, keys in enumerate(file.rules) for rule in _Reader(file, number, maker, redact).rules(keys)
    ]
    log = file.keys.log if log is None else log or None
    if say is not None:
        names = ", ".join(keys.name for keys in file.rules)
        say(f"guardrails of {path}: {len(file.rules)} rules ({names})" + (f"; decisions go to {log}" if log else ""))
    place = DecisionLog(log) if isinstance(log, str | Path) else log or None
    return Guardrails(
        rules, log=place, log_text=file.keys.log_text, log_allowed=file.keys.log_allowed, closing=(maker.close,)
    )


class _Reader:
    """One rule of the file as what runs: two where input and output differ."""

    def __init__(self, file: GuardrailsFile, number: int, maker: ModelMaker, redact: Redact | None) -> None:
        self.file, self.number, self.maker, self.redact = file, number, maker, redact

    def rules(self, keys: RuleKeys) -> list[Rule]:
        """What the keys say, one for the input and one for the output."""
        sides = ("input", "output") if keys.on == "both" else (keys.on,)
        make = self._maker(keys)
        rules: list[Rule] = []
        for side in sides:
            scope: dict[str, Any] = {"name": keys.name, "told": keys.told(side), "roles": keys.roles}
            rules += make(
                scope | {"look_at": keys.looks_at, "on_input": side == "input", "on_output": side == "output"}
            )
        return rules

    def _maker(self, keys: RuleKeys) -> Callable[[dict[str, Any]], Sequence[Rule]]:
        """From what all rules have to the rules: patterns are read, models loaded, once for both sides."""
        if isinstance(keys, PatternKeys):
            found = patterns(self.file, self.number, keys)
            replacement = keys.replacement if keys.action == "redact" else None
            return lambda scope: [PatternRule(**scope, expression=found, replacement=replacement)]
        if isinstance(keys, LengthKeys):
            return lambda scope: [LengthRule(**scope, most=keys.max_characters)]
        if isinstance(keys, PersonalDataKeys):
            look = redacting(self.redact or _redact, refuses=keys.action == "refuse")
            return lambda scope: [_blocks(scope, look, keys.kind, keys.every, MAX_BLOCK)]
        if isinstance(keys, TopicsKeys) and not keys.asks:
            return topics(self.file, self.number, keys)
        assert isinstance(keys, AskedKeys)
        opinion = self._opinion(keys)
        return lambda scope: [_blocks(scope, opinion, keys.kind, keys.every, keys.window)]

    def _opinion(self, keys: AskedKeys) -> Look:
        """A model's."""
        place = ("rules", self.number)
        if isinstance(keys, JudgeRuleKeys):
            asked = ask_judge(self.maker, keys, keys.question)
            return by_judge(asked, refuse_if=keys.refuse_if == "yes", on_error=keys.on_error)
        if isinstance(keys, ClassifierKeys):
            asked = ask_classifier(self.maker, keys, keys.model, keys.labels, lambda said: self.file.fail(said, place))
            return by_score(asked, threshold=keys.threshold, refuse_below=keys.refuse_below, on_error=keys.on_error)
        assert isinstance(keys, TopicsKeys)
        names, is_refused = list(keys.refused or keys.allowed), bool(keys.refused)
        if keys.classifier:
            asked = ask_classifier(self.maker, keys, keys.classifier, names, lambda said: self.file.fail(said, place))
            return by_score(asked, threshold=keys.threshold, refuse_below=not is_refused, on_error=keys.on_error)
        question = f"Is it about one of these topics: {', '.join(names)}?"
        return by_judge(ask_judge(self.maker, keys, question), refuse_if=is_refused, on_error=keys.on_error)


def _blocks(scope: dict[str, Any], look: Look, kind: str, every: int, window: int) -> BlockRule:
    """The input is whole: there, blocks are as large as what is seen of an answer."""
    every = every if scope["on_output"] else max(every, window)
    return BlockRule(**scope, look=look, every=every, window=window, kind=kind)


def _redact(text: str) -> tuple[str, dict[str, int]]:
    from posttrain.feedback.personal_data import redact

    found = redact(text)
    return found.text, found.counts
