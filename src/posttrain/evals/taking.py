"""A task and a model to marks: what is known already is not asked again, what fails is counted."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch

from posttrain.data.template import stop_token_ids
from posttrain.errors import ConfigError, DataError
from posttrain.evals.marks import Mark
from posttrain.evals.task import AnswerTask, Choices, ChoiceTask, Taken, Task, TextTask, item_key
from posttrain.evals.weighing import choice_marks, text_marks, weigh_options, weigh_texts
from posttrain.models.load import Policy, context_length
from posttrain.rollouts.asking import Ask
from posttrain.rollouts.environments import SingleTurn
from posttrain.rollouts.policy import PolicySampler
from posttrain.rollouts.run import run_groups
from posttrain.rollouts.sampling import Decoding
from posttrain.rollouts.text_ids import PLAIN_STOP, AskIds
from posttrain.types import Document, Message, Prompt, Rollout

Progress = Callable[[int, int], None]
"""How many items are done, of how many."""
AT_ONCE = 64
"""Questions or texts that are weighed, and answers that are marked, before they are kept."""


class Keep(Protocol):
    """What is known of one model by key: answers, and values that JSON holds."""

    def group(self, key: str, prompt: Prompt) -> list[Rollout] | None:
        """The answers to a prompt, if they are there."""
        ...

    def add(self, key: str, prompt: Prompt, group: Sequence[Rollout]) -> None:
        """Keep the answers to a prompt."""
        ...

    def value(self, key: str) -> Any:
        """A value, None where there is none."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        ...


class Memory:
    """Keeps nothing beyond itself."""

    def __init__(self) -> None:
        self.groups, self.values = dict[str, list[Rollout]](), dict[str, Any]()

    def group(self, key: str, prompt: Prompt) -> list[Rollout] | None:  # noqa: ARG002 (the protocol's signature)
        """See Keep."""
        return self.groups.get(key)

    def add(self, key: str, prompt: Prompt, group: Sequence[Rollout]) -> None:  # noqa: ARG002
        """See Keep."""
        self.groups[key] = list(group)

    def value(self, key: str) -> Any:
        """See Keep."""
        return self.values.get(key)

    def put(self, key: str, value: Any) -> None:
        """See Keep."""
        self.values[key] = value


def take(
    task: Task,
    policy: Policy,
    *,
    keep: Keep | None = None,
    slots: int = 64,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Taken:
    """Ask what `keep` does not have, and mark it. Figures do not depend on what was kept, nor on where work stopped.

    `dtype` of the decoding; None: float32 on a CPU, else as PolicySampler chooses. For several tasks, see Taker.
    """
    return Taker(lambda: policy, keep=keep, slots=slots, dtype=dtype).take(task, progress)


class Taker:
    """One model that takes tasks; it is loaded at the first question that is not answered yet."""

    def __init__(
        self,
        load: Callable[[], Policy],
        *,
        keep: Keep | None = None,
        slots: int = 64,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._load, self.keep, self.slots, self.dtype = load, keep or Memory(), slots, dtype
        self._policy: Policy | None = None
        self._sampler: PolicySampler | None = None

    @property
    def policy(self) -> Policy:
        """The model."""
        if self._policy is None:
            self._policy = self._load()
        return self._policy

    @property
    def sampler(self) -> PolicySampler:
        """The model as a sampler, the same for all tasks."""
        if self._sampler is None:
            # What is measured should not hang on rounding where fp32 costs little.
            dtype = self.dtype or (torch.float32 if self.policy.device.type == "cpu" else None)
            self._sampler = PolicySampler(self.policy, dtype=dtype, slots=self.slots)
        return self._sampler

    def take(self, task: Task, progress: Progress | None = None) -> Taken:
        """See `take`."""
        progress = progress or _silent
        match task:
            case AnswerTask():
                taken = self._answered(task, progress)
            case ChoiceTask():
                taken = self._chosen(task, progress)
            case TextTask():
                taken = self._read(task, progress)
        _check(taken)
        return taken

    def _answered(self, task: AnswerTask, progress: Progress) -> Taken:
        how = _manner(task, str(self.dtype))
        said = [[_said(p.messages), p.tools, p.answer, dict(p.fields), _is_text(task, p)] for p in task.prompts]
        keys = [item_key("answers", each, how) for each in said]
        found = {key: self.keep.group(key, prompt) for key, prompt in zip(keys, task.prompts, strict=True)}
        missing = {key: prompt for key, prompt in zip(keys, task.prompts, strict=True) if found[key] is None}
        num_known = len(found) - len(missing)
        for number, (key, prompt, group) in enumerate(self._rolled(task, missing), 1):
            if not any(rollout.error for rollout in group):
                self.keep.add(key, prompt, group)
                # As it will be read the next time, so that marks are the same then.
                group = self.keep.group(key, prompt) or group
            found[key] = group
            progress(num_known + number, len(found))
        groups = [[replace(r, prompt=p) for r in found[key] or ()] for key, p in zip(keys, task.prompts, strict=True)]
        marks = tuple(self._marked(task, keys, groups))
        rollouts = tuple(rollout for group in groups for rollout in group)
        return Taken(task, marks, rollouts, sum(sum(rollout.chosen) for rollout in rollouts))

    def _rolled(self, task: AnswerTask, missing: dict[str, Prompt]) -> Iterator[tuple[str, Prompt, list[Rollout]]]:
        """Several prompts at a time, so that the sampler's slots stay full. A prompt that is asked twice in one call
        would be answered in another way than alone, so a call has each but once."""
        size = max(1, 8 * self.slots // (task.num_samples * len(task.all_seeds)))
        waiting = list(missing.items())
        while waiting:
            chosen: dict[str, tuple[str, Prompt]] = {}
            later = []
            for key, prompt in waiting:
                said = repr(prompt.messages)
                if len(chosen) < size and said not in chosen:
                    chosen[said] = (key, prompt)
                else:
                    later.append((key, prompt))
            waiting = later
            asked = list(chosen.values())
            rolled = _roll(task, self.policy, self.sampler, [prompt for _, prompt in asked])
            for (key, prompt), group in zip(asked, rolled, strict=True):
                yield key, prompt, group

    def _marked(self, task: AnswerTask, keys: Sequence[str], groups: Sequence[Sequence[Rollout]]) -> Iterator[Mark]:
        """Marks that know something are kept, so that a slow judge is asked once."""
        asked = [figure.name for figure in task.figures]
        places = [item_key("marks", key, asked, task.name, task.identity) for key in keys]
        rows = [self.keep.value(place) for place in places]
        size = max(1, AT_ONCE // max(1, max(map(len, groups), default=1)))
        missing = [number for number, row in enumerate(rows) if row is None]
        for some in _parts(missing, size):
            made = iter(_marks_of(task, [rollout for number in some for rollout in groups[number]]))
            for number in some:
                found = [next(made) for _ in groups[number]]
                rows[number] = [[asdict(mark) for mark in row] for row in found]
                if not any(mark.error for row in found for mark in row):
                    self.keep.put(places[number], rows[number])
        for group, row in zip(groups, rows, strict=True):
            marks = [[Mark(**mark) for mark in of_one] for of_one in row]
            yield from (mark for of_one in marks for mark in of_one)
            if task.mark_group is not None and group:
                yield from task.mark_group(group, marks)

    def _chosen(self, task: ChoiceTask, progress: Progress) -> Taken:
        keys = [item_key("options", _said(q.messages), q.options, task.plain) for q in task.questions]

        def weigh(questions: Sequence[Choices]) -> Iterable[list[float] | DataError]:
            return weigh_options(self.policy, questions, plain=task.plain)

        asked, marks = {figure.name for figure in task.figures}, list[Mark]()
        mark = task.mark or choice_marks
        for question, logps in zip(task.questions, self.weighed(keys, task.questions, weigh, progress), strict=True):
            if isinstance(logps, DataError):
                marks += [Mark(name, question.item, 0.0, question.cluster, question.kind, error=str(logps))
                          for name in sorted(asked)]  # fmt: skip
            else:
                marks += [each for each in mark(question, logps) if each.figure in asked]
        return Taken(task, tuple(marks))

    def _read(self, task: TextTask, progress: Progress) -> Taken:
        keys = [item_key("text", document.text) for document in task.documents]

        def weigh(documents: Sequence[Document]) -> Iterable[list[float] | DataError]:
            found = weigh_texts(self.policy, documents)
            return [each if isinstance(each, DataError) else [-each[0], each[1]] for each in found]

        found = self.weighed(keys, task.documents, weigh, progress)
        asked, marks = {figure.name for figure in task.figures}, list[Mark]()
        for document, row in zip(task.documents, found, strict=True):
            if isinstance(row, DataError):
                marks += [Mark(name, item_key(document.text), 0.0, error=str(row)) for name in sorted(asked)]
            else:
                marks += [each for each in text_marks(document, row[0], int(row[1])) if each.figure in asked]
        return Taken(task, tuple(marks), num_tokens=sum(int(r[1]) for r in found if not isinstance(r, DataError)))

    def weighed(
        self, keys: Sequence[str], things: Sequence[Any], weigh: Callable[[Sequence[Any]], Iterable[Any]], say: Progress
    ) -> list[Any]:
        """The kept values, and those of what is missing; an error is kept by nobody."""
        found = {key: self.keep.value(key) for key in keys}
        missing = {key: thing for key, thing in zip(keys, things, strict=True) if found[key] is None}
        num_known = len(found) - len(missing)
        for some in _parts(list(missing), AT_ONCE):
            for key, value in zip(some, weigh([missing[key] for key in some]), strict=True):
                found[key] = value
                if not isinstance(value, DataError):
                    self.keep.put(key, value)
            num_known += len(some)
            say(num_known, len(found))
        return [found[key] for key in keys]


def _manner(task: AnswerTask, dtype: str) -> dict[str, Any]:
    """All that an answer hangs on beside the model and what it is asked."""
    names = ("num_samples", "temperature", "top_p", "max_new_tokens", "stop_strings", "text_stops", "as_text")
    how = {name: getattr(task, name) for name in names} | {"seeds": task.all_seeds, "dtype": dtype}
    if task.base_shots:
        how["base_shots"] = _said(task.base_shots)
    if task.environment is not SingleTurn or task.rolling is not None:
        how |= {"max_turns": task.max_turns, "environment": dict(task.identity)}
    return how


def _is_text(task: AnswerTask, prompt: Prompt) -> str:
    """For which models a prompt is text."""
    return "always" if task.is_text is not None and task.is_text(prompt) else task.as_text


def _roll(task: AnswerTask, policy: Policy, sampler: PolicySampler, prompts: Sequence[Prompt]) -> list[list[Rollout]]:
    """Answers of all seeds, numbered through: those to prompts that are text, and the others."""
    is_base = policy.tokenizer.chat_template is None
    texts = ("always", "base") if is_base else ("always",)
    found: list[list[Rollout]] = [[] for _ in prompts]
    for is_text in (False, True):
        here = [n for n, p in enumerate(prompts) if (_is_text(task, p) in texts) == is_text]
        if here:
            rolled = _roll_alike(task, policy, sampler, [prompts[n] for n in here], is_text=is_text, is_base=is_base)
            for number, group in zip(here, rolled, strict=True):
                found[number] = group
    return found


def _roll_alike(
    task: AnswerTask,
    policy: Policy,
    sampler: PolicySampler,
    prompts: Sequence[Prompt],
    *,
    is_text: bool,
    is_base: bool,
) -> list[list[Rollout]]:
    ids = AskIds(policy.tokenizer)

    def render(messages: Sequence[Message], tools: object) -> list[int]:  # noqa: ARG001 (a base model has none)
        return ids.prompt(Ask(text=messages[-1].content) if is_text else Ask(tuple(messages)))

    stops = (*task.stop_strings, *(task.text_stops if is_text else ()))
    decoding = Decoding(
        max_new_tokens=task.max_new_tokens,
        temperature=task.temperature,
        top_p=task.top_p,
        stop_token_ids=tuple(stop_token_ids(policy.tokenizer)),
        stop_strings=(*stops, *((PLAIN_STOP,) if is_base and not is_text else ())),
    )
    shots = task.base_shots if is_base and not is_text else ()
    asked = [replace(prompt, messages=(*shots, *prompt.messages)) for prompt in prompts]
    more: Mapping[str, Any] = {"environment": task.environment, "max_turns": task.max_turns}
    more = more if task.rolling is None else task.rolling(policy.tokenizer)
    rolled: list[list[Rollout]] = [[] for _ in prompts]
    for turn, seed in enumerate(task.all_seeds):
        groups = run_groups(
            asked,
            sampler,
            tokenizer=policy.tokenizer,
            num_generations=task.num_samples,
            decoding=decoding,
            seed=seed,
            context_length=context_length(policy),
            render=render if is_base or is_text else None,
            **more,
        )
        for row, prompt, group in zip(rolled, prompts, groups, strict=True):
            row += [replace(r, prompt=prompt, number=turn * task.num_samples + r.number) for r in group]
    return rolled


def _marks_of(task: AnswerTask, rollouts: Sequence[Rollout]) -> list[list[Mark]]:
    """Marks of each answer. Where an episode broke, or the marking of one, nothing is known of any of its figures."""
    try:
        rows = [list(row) for row in task.mark(rollouts)]
    except Exception as error:
        if len(rollouts) > 1:  # one that cannot be marked is no reason to lose the others
            return [row for rollout in rollouts for row in _marks_of(task, [rollout])]
        why = f"{type(error).__name__}: {error}"
        rows = [[Mark(figure.name, "", 0.0, error=why) for figure in task.figures]]
    if len(rows) != len(rollouts):
        raise ConfigError(f"task {task.name} marked {len(rows)} of {len(rollouts)} answers; it has to mark each.")
    return [[_whole(mark, rollout) for mark in row] for rollout, row in zip(rollouts, rows, strict=True)]


def _check(taken: Taken) -> None:
    """ConfigError for a mark of no figure of the task, and for a value that its figure cannot have."""
    units = {figure.name: figure.unit for figure in taken.task.figures}
    for mark in taken.marks:
        if mark.figure not in units:
            known = ", ".join(units)
            raise ConfigError(f"task {taken.task.name} marks {mark.figure!r}, which is none of its figures: {known}.")
        is_share = units[mark.figure] == "share"
        if not math.isfinite(mark.value) or (is_share and not 0 <= mark.value <= 1):
            hint = 'a share lies in [0, 1]; Figure(..., unit="mean") takes any number' if is_share else "give a number"
            raise ConfigError(f"task {taken.task.name} marks {mark.figure} with {mark.value}: {hint}.")


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


def _whole(mark: Mark, rollout: Rollout) -> Mark:
    if rollout.error and not mark.error:
        mark = replace(mark, error=f"episode: {rollout.error}")
    return replace(mark, item=mark.item or item_key(_said(rollout.prompt.messages)), sample=rollout.number)


def _said(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _parts(keys: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
