"""Guardrails: rules on what comes in and what goes out, one after the other in the order of their file.

The text that one rule lets out is what the next one sees, so a rule that blots something out hides it from those that
stand after it. What is let out of an answer depends on the answer alone, not on the pieces that it came in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.serve.doors import Passed, Ruling
from posttrain.serve.guard_log import DecisionLog
from posttrain.serve.guard_patterns import PatternRule, Patterns
from posttrain.serve.guard_stage import Found, Rule, Stage, looked_at
from posttrain.types import Message

MakeStage = Callable[[Sequence[Message]], Stage]


@dataclass(frozen=True, slots=True)
class Cleaned(Ruling):
    """A ruling that changes what was asked. `messages`: what the model is to be given instead."""

    messages: tuple[Message, ...] = ()


class Guardrails:
    """A Guard of serve/doors.py. May be used from any thread.

    `log`: where decisions go, all but 'allow' (these too with `log_allowed`; always where a model was away and the
    text let pass); the texts themselves with `log_text` alone. `closing`: called by `close`.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        log: DecisionLog | None = None,
        log_text: bool = False,
        log_allowed: bool = False,
        closing: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.rules, self.log = tuple(rules), log
        self.log_text, self.log_allowed = log_text, log_allowed
        self._input: list[tuple[Rule, MakeStage]] = [(rule, _maker([rule])) for rule in rules if rule.on_input]
        self._output = [_maker(group) for group in _groups([rule for rule in rules if rule.on_output])]
        self._closing = tuple(closing)

    def check(self, messages: Sequence[Message], user: str) -> Ruling:
        """What a conversation may do. The first rule that refuses decides; a Cleaned where something was blotted out,
        with the messages that are left."""
        cleaned, last = list(messages), None
        for rule, make in self._input:
            for place in looked_at(cleaned, rule):
                stage = make(())
                text = cleaned[place].content
                out = stage.feed(text) + stage.end()
                for found in stage.found:
                    self._note(found, "input", user, text)
                    if found.action == "refuse":
                        return _ruling(found, "input")
                    last = found if found.action == "redact" else last
                if out != text:
                    cleaned[place] = replace(cleaned[place], content=out)
        if last is not None:
            what = _ruling(last, "input")
            return Cleaned(what.action, what.rule, what.told, what.where, what.details, tuple(cleaned))
        if self.log_allowed:
            self._note(Found("", "allow"), "input", user, "\n".join(message.content for message in messages))
        return Ruling("allow")

    def watch(self, messages: Sequence[Message], user: str) -> "AnswerWatch":
        """An eye on one answer."""
        stages = [make(messages) for make in self._output]
        return AnswerWatch(stages, lambda found, text: self._note(found, "output", user, text), keeps=self.log_text)

    def close(self) -> None:
        """Ask the models no more."""
        for each in self._closing:
            each()

    def _note(self, found: Found, where: str, user: str, text: str = "") -> None:
        if self.log is None:
            return
        row: dict[str, Any] = {"user": user, "where": where, "rule": found.rule, "action": found.action}
        row |= {"place": found.place, "details": found.details}
        self.log.write(row | ({"text": text} if self.log_text else {}))


class AnswerWatch:
    """A Watch of serve/doors.py: the answer runs through one stage after the other. For one thread at a time."""

    def __init__(self, stages: Sequence[Stage], note: Callable[[Found, str], None], *, keeps: bool = False) -> None:
        """`note`: told of every decision and, where the watch `keeps` it, of the answer so far."""
        self.stages, self.note, self.keeps = tuple(stages), note, keeps
        self._refusal: Ruling | None = None
        self._answer = ""

    def feed(self, text: str) -> Passed:
        """See Watch."""
        return self._run(text, is_whole=False)

    def end(self) -> Passed:
        """See Watch."""
        return self._run("", is_whole=True)

    def _run(self, text: str, *, is_whole: bool) -> Passed:
        if self._refusal is not None:
            return Passed("", self._refusal)
        if self.keeps:
            self._answer += text
        last: Found | None = None
        refusal: Found | None = None
        for stage in self.stages:
            text = stage.feed(text)
            if is_whole:
                text += stage.end()
            for found in stage.found:
                if found.action == "refuse":
                    # The answer ends in front of what is refused; those behind see it as whole, and may cut it earlier.
                    refusal, is_whole = found, True
                else:
                    self.note(found, self._answer)
                    last = found if found.action == "redact" else last
            stage.found.clear()
        if refusal is not None:
            self.note(refusal, self._answer)
            self._refusal = _ruling(refusal, "output")
            return Passed(text, self._refusal)
        return Passed(text, None if last is None else _ruling(last, "output"))


def _groups(rules: Sequence[Rule]) -> list[list[Rule]]:
    """Patterns that stand beside each other are searched together."""
    groups: list[list[Rule]] = []
    for rule in rules:
        if groups and isinstance(rule, PatternRule) and isinstance(groups[-1][-1], PatternRule):
            groups[-1].append(rule)
        else:
            groups.append([rule])
    return groups


def _maker(rules: Sequence[Rule]) -> MakeStage:
    patterns = [rule for rule in rules if isinstance(rule, PatternRule)]
    if len(patterns) == len(rules):
        together = Patterns(patterns)
        return lambda _: together.stage()
    return rules[0].stage


def _ruling(found: Found, where: str) -> Ruling:
    return Ruling(found.action, found.rule, found.told, where, {"place": found.place, **found.details})
