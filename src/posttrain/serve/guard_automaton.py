"""Where in a text no match can be under way: patterns as one automaton that is run over it a character at a time.

The automaton knows what its patterns begin with and go on with, but neither counts long repeats nor looks ahead: it
sees every match, and some that are none. So it answers two questions at once, for all patterns and in time that is
linear in the text: may anything have been found (then the expressions themselves are asked), and may something be
under way (then text is held back). States are made as texts lead to them (Thompson, 1968; lazily, as in RE2).
"""

import re
from functools import lru_cache
from typing import Any

Tree = tuple[Any, ...]
"""What an expression is made of: ('one', character class) · ('all', trees in order) · ('any', alternatives) · ('many',
tree, any number of times) · ('border', where no word has begun) · ('words', phrases, whether they have borders)."""
NOTHING: Tree = ("all", ())
MAX_COPIES = 5
"""Times that a repeat is written out; one that goes on longer is taken to go on for ever."""
MAX_STATES, MAX_STEPS = 20_000, 500_000
"""States, and steps between them, that are kept; hostile texts lead to ever new ones."""


class State(dict[str, "State"]):
    """A state with the ones that follow, by character. `idle`: nothing is under way. `found`: patterns that may have
    been found, ending here."""

    __slots__ = ("automaton", "found", "idle", "in_word", "nodes")

    def __init__(self, automaton: "Automaton", nodes: frozenset[int], found: frozenset[int], in_word: bool) -> None:
        super().__init__()
        self.automaton, self.nodes, self.found, self.in_word = automaton, nodes, found, in_word
        self.idle = not nodes

    def __missing__(self, char: str) -> "State":
        state = self[char] = self.automaton.after(self, char)
        return state


class Automaton:
    """For several patterns, by their place. May be used from any thread."""

    def __init__(self, trees: list[Tree]) -> None:
        self._tests: list[str] = []  # of a node: the class of the characters that lead on
        self._next: list[list[int]] = []  # and where to, without a test
        self._free: list[list[int]] = []  # of a joint: what follows without a character
        self._border: set[int] = set()  # joints that are passed outside of words alone
        self._found: dict[int, int] = {}
        starts = []
        for number, tree in enumerate(trees):
            end = self._joint()
            self._found[end] = number
            starts.append(self._build(tree, end))
        self._starts = {word: self._reached(starts, word) for word in (False, True)}
        # All patterns may begin at every character: those that do are looked up, not tried.
        self._by_char: dict[tuple[str, bool], list[int]] = {}
        self.states: dict[Any, State] = {}
        self._num_steps = 0

    def start(self, in_word: bool = False) -> State:
        """Nothing is under way. `in_word`: the character before belongs to a word."""
        return self._state(frozenset(), frozenset(), in_word)

    def after(self, state: State, char: str) -> State:
        """What follows on a character."""
        in_word = char.isalnum() or char == "_"
        passed = [node for node in state.nodes if _is_in(self._tests[node], char)]
        key = (char, state.in_word)
        begun = self._by_char.get(key)
        if begun is None:
            nodes, _ = self._starts[state.in_word]
            begun = [node for node in nodes if _is_in(self._tests[node], char)]
            if len(self._by_char) > MAX_STATES:
                self._by_char.clear()
            self._by_char[key] = begun
        targets = [target for node in (*passed, *begun) for target in self._next[node]]
        nodes, found = self._reached(targets, in_word)
        self._num_steps += 1
        if self._num_steps > MAX_STEPS or len(self.states) > MAX_STATES:
            self.states, self._num_steps = {}, 0  # what is in use goes on, and is forgotten with the texts that use it
        return self._state(nodes, found, in_word)

    def _state(self, nodes: frozenset[int], found: frozenset[int], in_word: bool) -> State:
        key = (nodes, found, in_word)
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = State(self, nodes, found, in_word)
        return state

    def _reached(self, joints: list[int], in_word: bool) -> tuple[frozenset[int], frozenset[int]]:
        """Nodes that wait for a character, and patterns that are found, from some joints on."""
        seen, waiting, found = set(joints), set(), set()
        todo = list(joints)
        while todo:
            joint = todo.pop()
            if joint in self._border and in_word:
                continue
            if joint in self._found:
                found.add(self._found[joint])
            if self._tests[joint]:
                waiting.add(joint)
            for other in self._free[joint]:
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return frozenset(waiting), frozenset(found)

    def _joint(self, test: str = "", then: int | None = None) -> int:
        self._tests.append(test)
        self._next.append([] if then is None else [then])
        self._free.append([])
        return len(self._tests) - 1

    def _build(self, tree: Tree, end: int) -> int:
        """The joint where a tree begins that leads to `end`."""
        kind = tree[0]
        if kind == "one":
            return self._joint(tree[1], end)
        if kind == "all":
            for part in reversed(tree[1]):
                end = self._build(part, end)
            return end
        if kind == "words":
            return self._words(tree[1], tree[2], end)
        joint = self._joint()
        if kind == "any":
            self._free[joint] += [self._build(part, end) for part in tree[1]]
        elif kind == "many":
            self._free[joint] += [self._build(tree[1], joint), end]
        elif kind == "border":
            self._border.add(joint)
            self._free[joint].append(end)
        return joint

    def _words(self, phrases: tuple[str, ...], borders: bool, end: int) -> int:
        joint = self._joint()
        for phrase in phrases:
            here = end
            for char in reversed(phrase):
                here = self._joint(re.escape(char), here)
            if borders and (phrase[0].isalnum() or phrase[0] == "_") and not _is_unspaced(phrase[0]):
                here = self._build(("border",), here)
            self._free[joint].append(here)
        return joint


def repeated(tree: Tree, least: int, most: int) -> Tree:
    """A tree so many times; where these are many, any number of times beyond some."""
    if most > MAX_COPIES:
        return ("all", (*[tree] * min(least, MAX_COPIES), ("many", tree)))
    rest: Tree = NOTHING
    for _ in range(most - least):
        rest = ("any", (("all", (tree, rest)), NOTHING))
    return ("all", (*[tree] * least, rest))


def _is_unspaced(char: str) -> bool:
    return ord(char) >= 0x0E00


@lru_cache(maxsize=1 << 16)
def _is_in(test: str, char: str) -> bool:
    return re.fullmatch(test, char, re.IGNORECASE) is not None
