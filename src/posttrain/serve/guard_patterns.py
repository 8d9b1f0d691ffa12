"""Rules on the words of a text: phrases and regular expressions that refuse it or are blotted out.

They are searched in the folded text (guard_text.py). Whether a match begins at a place is known for certain once as
many characters lie behind it as the widest pattern may span and look at, or once an automaton (guard_automaton.py) says
that none is under way; text in front of such a place is let out, the rest is held back. So what is found does not
depend on how the text was cut.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.serve.guard_automaton import Automaton
from posttrain.serve.guard_regex import Expression
from posttrain.serve.guard_stage import Found, Rule
from posttrain.serve.guard_text import Folder
from posttrain.types import Message

AT_ONCE = 24
"""Characters that are let wait, where something may have been found, to be searched together."""
MAX_TOGETHER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternRule(Rule):
    """Refuses a text in which `expression` is found; with a `replacement`, puts that in its place instead. `kind`: of
    the rule, for the log."""

    expression: Expression
    replacement: str | None = None
    kind: str = "pattern"

    def stage(self, conversation: Sequence[Message]) -> "PatternStage":  # noqa: ARG002 (what was asked is no matter)
        """See Rule."""
        return Patterns([self]).stage()


class Patterns:
    """Several rules that are searched together: the match that begins first counts, of two at one place that of the
    rule that stands first. Made once; its stages may run in several threads."""

    def __init__(self, rules: Sequence[PatternRule]) -> None:
        self.rules = tuple(rules)
        parts = [rule.expression for rule in rules]
        self.automaton = Automaton([part.tree for part in parts])
        self.reach = max(part.width + part.ahead for part in parts)
        self.ahead = max(part.ahead for part in parts)
        self.behind = max(part.behind for part in parts) + 1
        self._together: dict[frozenset[int], re.Pattern[str]] = {}

    def stage(self) -> "PatternStage":
        """At work on a new text."""
        return PatternStage(self)

    def together(self, numbers: frozenset[int]) -> re.Pattern[str]:
        """What finds some of the rules. The group of a match is r and the number of its rule."""
        found = self._together.get(numbers)
        if found is None:
            if len(self._together) > MAX_TOGETHER:
                self._together = {}
            parts = [f"(?P<r{number}>{self.rules[number].expression.text})" for number in sorted(numbers)]
            found = self._together[numbers] = re.compile("|".join(parts), re.IGNORECASE)
        return found


class PatternStage:
    """See Stage."""

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.found: list[Found] = []
        self._folder = Folder()
        # Places in the folded text: where matches may still begin, up to where the automaton has read, where it was
        # last idle with all in view that a match in front of it looks at, and where it was last idle at all.
        self._from = self._read = self._idle = self._newest_idle = 0
        self._state = patterns.automaton.start()
        self._maybe: dict[int, int] = {}  # rules that may have been found, and where the last of it would end
        self._raw, self._first = "", 0  # text that is held back, and the place where it begins
        self._sent = 0  # the place up to which text was let out or blotted out
        self._is_over = False

    def feed(self, text: str) -> str:
        """See Stage."""
        if self._is_over:
            return ""
        self._raw += text
        self._folder.add(text)
        return self._let_out(is_whole=False)

    def end(self) -> str:
        """See Stage."""
        if self._is_over:
            return ""
        out = self._let_out(is_whole=True)
        self._is_over = True
        return out

    def _let_out(self, *, is_whole: bool) -> str:
        size = len(self._folder.text)
        self._read_on()
        known = size if is_whole else max(self._idle, size - self.patterns.reach + 1)
        if self._maybe and not is_whole and known - self._from < AT_ONCE:
            return ""  # the search costs more than the wait
        out = self._searched(known) if self._maybe else []
        if self._is_over:
            return "".join(out)
        self._from = max(self._from, known)
        self._maybe = {number: end for number, end in self._maybe.items() if end > self._from}
        if is_whole:
            out.append(self._take(self._first + len(self._raw)))
        elif self._from < size:
            out.append(self._take(self._folder.places[self._from]))
        elif size:
            out.append(self._take(self._folder.places[-1] + 1))
        self._raw, self._first = self._raw[self._sent - self._first :], self._sent
        self._forget(min(self._from, size) - self.patterns.behind)
        return "".join(out)

    def _read_on(self) -> None:
        """Run the automaton over what is new. One that was idle for the last time long ago begins anew at the first
        place where matches may still begin: what was under way before it has had its time."""
        text, reach = self._folder.text, self.patterns.reach
        self._run(text, self._read)
        if len(text) - self._newest_idle > 3 * reach:
            begin = max(self._from, len(text) - reach + 1)
            before = text[begin - 1 : begin]
            self._state = self.patterns.automaton.start(before.isalnum() or before == "_")
            self._newest_idle = self._idle = begin
            self._run(text, begin)
        if len(text) - self._newest_idle >= self.patterns.ahead or not self._maybe:
            self._idle = self._newest_idle

    def _run(self, text: str, begin: int) -> None:
        state, idle = self._state, self._newest_idle
        for place, char in enumerate(text[begin:] if begin else text, begin + 1):
            state = state[char]
            if state.idle:
                idle = place
            if state.found:
                self._maybe.update(dict.fromkeys(state.found, place))
        self._state, self._newest_idle, self._read = state, idle, len(text)

    def _searched(self, known: int) -> list[str]:
        """What goes out in front of the matches, and in their place, that begin before a place."""
        folded, out = self._folder, list[str]()
        regex = self.patterns.together(frozenset(self._maybe))
        while self._from < known:
            match = regex.search(folded.text, self._from)
            if match is None or match.start() >= known:
                break
            begin, end = folded.places[match.start()], folded.places[match.end() - 1] + 1
            out.append(self._take(begin))
            rule = self.patterns.rules[int(str(match.lastgroup)[1:])]
            if rule.replacement is None:
                self._found(rule, "refuse", begin, end)
                self._is_over, self._raw = True, ""
                break
            if end > self._sent:  # a letter that folds to two may be the end of one match and the beginning of another
                self._found(rule, "redact", begin, end)
                out.append(rule.replacement)
                self._sent = end
            self._from = match.end()
        return out

    def _found(self, rule: PatternRule, action: str, begin: int, end: int) -> None:
        self.found.append(Found(rule.name, action, rule.told, begin, {"kind": rule.kind, "characters": end - begin}))

    def _take(self, place: int) -> str:
        """What is held back in front of a place."""
        taken = self._raw[self._sent - self._first : max(0, place - self._first)]
        self._sent = max(self._sent, place)
        return taken

    def _forget(self, count: int) -> None:
        """The first folded characters are looked at no more."""
        if count <= 0:
            return
        self._folder.forget(count)
        self._from, self._read = self._from - count, self._read - count
        self._idle, self._newest_idle = max(0, self._idle - count), max(0, self._newest_idle - count)
        self._maybe = {number: end - count for number, end in self._maybe.items()}
