"""Rules of a file of guardrails that look for words: patterns, and topics that phrases tell."""

from collections.abc import Callable, Sequence
from typing import Any

from posttrain.recipes.guardrails_config import PatternKeys, TopicsKeys
from posttrain.recipes.guardrails_reading import GuardrailsFile
from posttrain.serve.guard_blocks import BlockRule
from posttrain.serve.guard_models import needs_phrase
from posttrain.serve.guard_patterns import PatternRule
from posttrain.serve.guard_regex import MAX_PHRASE, Expression, of_phrases, one_of, read_regex
from posttrain.serve.guard_stage import Rule
from posttrain.serve.guard_text import fold

WHOLE = 1 << 40  # one block


def patterns(file: GuardrailsFile, number: int, keys: PatternKeys) -> Expression:
    """What a rule looks for. `number`: its place in the file. Raises DataError."""
    found = []
    if keys.phrases:
        found.append(_phrases(file, keys.phrases, ("rules", number, "phrases"), borders=keys.word_borders))
    for index, regex in enumerate(keys.regex):
        try:
            found.append(read_regex(regex, holds=keys.holds))
        except ValueError as error:
            file.fail(f"rule {keys.name!r}: the expression {error}.", ("rules", number, "regex", index))
    return one_of(found) if len(found) > 1 else found[0]


def topics(file: GuardrailsFile, number: int, keys: TopicsKeys) -> Callable[[dict[str, Any]], Sequence[Rule]]:
    """From what all rules have to the rules: one for each topic that is refused, one for all that are allowed."""
    named, field = keys.refused or keys.allowed, "refused" if keys.refused else "allowed"
    assert isinstance(named, dict)
    each = {
        name: _phrases(file, phrases, ("rules", number, field, name), borders=True) for name, phrases in named.items()
    }
    if keys.refused:
        return lambda scope: [
            PatternRule(
                **scope | ({} if keys.message else {"told": f"{scope['told']} The topic is: {name}."}),
                expression=found,
                kind=f"topics: {name}",
            )
            for name, found in each.items()
        ]
    more = {} if keys.message else {"told": f"{keys.told('input')} It is here for: {', '.join(each)}."}
    look = needs_phrase(one_of(list(each.values())), keys.min_words)
    return lambda scope: [BlockRule(**scope | more, look=look, every=WHOLE, window=0, kind="topics")]


def _phrases(
    file: GuardrailsFile, phrases: Sequence[str], place: tuple[str | int, ...], *, borders: bool
) -> Expression:
    for index, phrase in enumerate(phrases):
        if not fold(phrase).strip():
            file.fail(f"the phrase {phrase!r} is empty once it is folded; leave it out.", (*place, index))
        if len(fold(phrase)) > MAX_PHRASE:
            file.fail(
                f"a phrase has at most {MAX_PHRASE} characters once it is folded, this one {len(fold(phrase)):,}; "
                "take the words of it that tell.",
                (*place, index),
            )
    if not phrases:
        file.fail("no phrases are given; name some, or leave the key out.", place)
    return of_phrases([fold(phrase).strip() for phrase in phrases], borders=borders)
