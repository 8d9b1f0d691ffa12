"""Whether an exported model says what the model says: the same tokens in, nearly the same distribution out, the same
text, and the same stop.

Four things go wrong after an export, and each shows in its own figure: the prompt is cut or templated otherwise (ids),
weights are laid out or rounded otherwise (forward KL of the next token: Kullback and Leibler, 1951), answers do not end
(stop tokens), and rounding turns answers round (flips: Dutta et al., 2024, Accuracy is not all you need, section 3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from posttrain.errors import DataError
from posttrain.evals.export_reader import Reader
from posttrain.evals.forward_kl import Answered, ask_key
from posttrain.intervals import Estimate, clustered_mean, clustered_share
from posttrain.models.replies import Reply
from posttrain.rollouts.asking import Ask

FEW = 10
"""With fewer whole answers one that flips says nothing of their share."""
SHOWN = 5
"""Examples that are kept of each thing that differs."""


@dataclass
class Compared:
    """An exported model beside the model in fp32. `kl_max`: the worst token. `top1`: tokens at which both find the same
    one likeliest. `flips`: whole answers (that the model in fp32 ends by itself, `num_whole` of them) that are not the
    same tokens and text. Where an answer is cut at the limit, two that are nearly alike part somewhere: `flips_all`
    counts them too, and nothing is judged by it, nor by the flips of fewer than FEW answers."""

    reader: str
    num_prompts: int
    num_tokens: int
    unequal_prompts: int
    unequal_texts: int
    num_texts: int
    stops_missing: list[str]
    stops_extra: list[str]
    kl: Estimate
    kl_max: float
    top1: Estimate
    flips: Estimate
    num_whole: int
    flips_all: Estimate
    not_ended: int
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As JSON holds it; what is not a number is null."""
        found = {name: value for name, value in vars(self).items() if not isinstance(value, tuple)}
        for name in ("kl", "top1", "flips", "flips_all"):
            found[name] = _ends(getattr(self, name))
        found["kl_max"] = self.kl_max if math.isfinite(self.kl_max) else None
        return found


def faults_of(found: Compared, max_kl: float, max_flips: float) -> list[str]:
    """What is over a budget or plainly wrong, a sentence each; none where the export may be used."""
    who, faults = found.reader, []
    if found.unequal_prompts:
        faults.append(
            f"{found.unequal_prompts} of {found.num_prompts} prompts become other tokens ({who}): wrong template or "
            "tokenizer"
        )
    if found.unequal_texts:
        faults.append(f"{found.unequal_texts} of {found.num_texts} probe texts become other tokens ({who})")
    if found.stops_missing:
        faults.append(f"stop tokens are missing ({who}): {', '.join(found.stops_missing)}; answers would run on")
    if found.stops_extra:
        faults.append(f"tokens stop answers that should not ({who}): {', '.join(found.stops_extra)}")
    if not found.kl.value <= max_kl:
        faults.append(f"KL to fp32 is {found.kl.value:.4g} nats a token ({who}), at most {max_kl:g} is allowed")
    if found.num_whole >= FEW and found.flips.value > max_flips:
        share = f"{100 * found.flips.value:.1f} % of {found.num_whole} greedy answers"
        faults.append(f"{share} change ({who}), at most {100 * max_flips:g} % may")
    if found.not_ended > max_flips * found.num_prompts:
        faults.append(f"{found.not_ended} answers do not end any more ({who})")
    return faults


@dataclass(frozen=True)
class Truth:
    """What the model in fp32 says, asked once for all formats. `logps`: of an answer, made when asked for."""

    reader: Reader
    asks: Sequence[Ask]
    prompts: Sequence[Sequence[int]]
    answered: Sequence[Answered]
    replies: Sequence[Reply]
    texts: Sequence[str]
    text_ids: Sequence[Sequence[int]]
    tell: Callable[[int], str]
    special_ids: frozenset[int]


def truth_of(
    reader: Reader, asks: Sequence[Ask], answered: Sequence[Answered], texts: Sequence[str], tokenizer: Any,
    max_new_tokens: int,
) -> Truth:  # fmt: skip
    """`answered`: sampled answers of the model, on which the KL is taken; `texts`: probes of the tokenizer."""
    if not answered:
        raise DataError("the model says nothing to any prompt, so there is nothing to compare; give other prompts.")
    prompts = [reader.prompt_ids(ask) for ask in asks]
    replies = list(reader.replies(prompts, max_new_tokens))
    ids = [reader.text_ids(text) for text in texts]
    special = frozenset(n for n, token in tokenizer.added_tokens_decoder.items() if token.special)
    return Truth(reader, asks, prompts, answered, replies, texts, ids, tokenizer.convert_ids_to_tokens, special)


def compare(truth: Truth, exported: Reader, max_new_tokens: int) -> Compared:
    """Ask the exported model the same, on the way that its users go: through its own template, tokenizer and stops. The
    KL alone is taken on the model's own tokens, as it would say nothing on others."""
    prompts = [exported.prompt_ids(ask) for ask in truth.asks]
    examples = [
        {"what": "prompt", "said": _said(ask), "model": _cut(theirs, ours), "exported": _cut(ours, theirs)}
        for ask, theirs, ours in zip(truth.asks, truth.prompts, prompts, strict=True)
        if list(theirs) != list(ours)
    ]
    unequal = len(examples)
    texts = [(text, theirs, exported.text_ids(text)) for text, theirs in zip(truth.texts, truth.text_ids, strict=True)]
    unlike = [
        {"what": "text", "said": text, "model": _cut(theirs, ours), "exported": _cut(ours, theirs)}
        for text, theirs, ours in texts
        if list(theirs) != list(ours)
    ]
    values, groups, same = _divergence(truth, exported)
    # A model whose log-probabilities are no numbers says nothing.
    replies = list(exported.replies(prompts, max_new_tokens)) if _known(values) else [Reply((), "")] * len(prompts)
    pairs = list(zip(truth.asks, truth.replies, replies, strict=True))
    flipped = [float(_is_other(a, b)) for _, a, b in pairs]
    whole = [_ends_in(a, truth.reader) for _, a, _ in pairs]
    turned = [
        {"what": "answer", "said": _said(ask), "model": a.text, "exported": b.text}
        for ask, a, b in pairs
        if a.text.strip() != b.text.strip()
    ]
    keys = [ask_key(ask) for ask in truth.asks]
    missing, extra = truth.reader.stop_ids - exported.stop_ids, exported.stop_ids - truth.reader.stop_ids
    return Compared(
        reader=exported.name,
        num_prompts=len(prompts),
        num_tokens=len(values),
        unequal_prompts=unequal,
        unequal_texts=len(unlike),
        num_texts=len(texts),
        stops_missing=[truth.tell(each) for each in sorted(missing)],
        # A control token that ends an answer there too is said by nobody; a word that does would cut answers short.
        stops_extra=[truth.tell(each) for each in sorted(extra - truth.special_ids)],
        kl=clustered_mean(values, groups) if _known(values) else Estimate(math.nan, -math.inf, math.inf),
        kl_max=max(values) if _known(values) else math.nan,
        top1=clustered_share(same, groups),
        flips=_share([(f, key) for f, key, is_whole in zip(flipped, keys, whole, strict=True) if is_whole]),
        num_whole=sum(whole),
        flips_all=clustered_share(flipped, keys),
        not_ended=sum(w and not _ends_in(b, exported) for w, (_, _, b) in zip(whole, pairs, strict=True)),
        examples=[*examples[:SHOWN], *unlike[:SHOWN], *turned[:SHOWN]],
    )


def _divergence(truth: Truth, exported: Reader) -> tuple[list[float], list[str], list[float]]:
    """Of every token of the sampled answers its KL, its prompt, and whether both find the same one likeliest."""
    values, groups, same = list[float](), list[str](), list[float]()
    for one in truth.answered:
        ours = truth.reader.logps(one.prompt_ids, one.answer_ids)
        theirs = exported.logps(one.prompt_ids, one.answer_ids)
        values += token_kls(ours, theirs).tolist()
        same += (ours.argmax(-1) == theirs.argmax(-1)).float().tolist()
        groups += [one.item] * len(one.answer_ids)
    return values, groups, same


def token_kls(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) [n] of log-probabilities [n, V], in fp64; what is below 0 by rounding is 0. A file may have
    rows beyond the model's, or the model rows beyond the tokenizer's: what both have is compared.

    >>> import torch
    >>> round(token_kls(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()).item(), 6)
    0.143841
    """
    size = min(ours.shape[-1], theirs.shape[-1])
    ours, theirs = ours[:, :size].double(), theirs[:, :size].double()
    return (ours.exp() * (ours - theirs)).sum(-1).clamp(min=0)


def _is_other(one: Reply, other: Reply) -> bool:
    """Other tokens, or the same ones read as another text. (A space before the first word is a matter of taste.)"""
    return one.token_ids != other.token_ids or one.text.strip() != other.text.strip()


def _share(found: Sequence[tuple[float, str]]) -> Estimate:
    """Of values and the prompts that they are of."""
    if not found:
        return Estimate(math.nan, -math.inf, math.inf)
    values, keys = zip(*found, strict=True)
    return clustered_share(values, keys)


def _ends_in(reply: Reply, reader: Reader) -> bool:
    return bool(reply.token_ids) and reply.token_ids[-1] in reader.stop_ids


def _known(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _said(ask: Ask) -> str:
    return ask.text or ask.messages[-1].content


def _cut(one: Sequence[int], other: Sequence[int]) -> str:
    """From the first place on where the two differ."""
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"from token {place}: {list(one[place : place + 8])}"


def _ends(found: Estimate) -> Mapping[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
