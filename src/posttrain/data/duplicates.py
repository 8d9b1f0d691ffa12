"""Rows that are there twice: exactly, nearly, or in the data that is held out.

Near duplicates: the sets of 8-character shingles of two texts overlap by a Jaccard index of at least 0.8. MinHash
signatures of 128 permutations (Broder, 1997) in 32 bands of 4 (Leskovec et al., Mining of Massive Datasets, 3.4)
propose pairs, and the shingles themselves decide.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from posttrain.data.findings import Fault, Finding, asked, dialogues, example, judge, said
from posttrain.types import Conversation, Document, Principle, Record

ALIKE = 0.8
SHINGLE = 8  # characters; words would not do, since many scripts do not part them
NUM_PERMUTATIONS = 128
BAND = 4  # rows of a band: 32 bands find a pair at Jaccard 0.8 with probability 1 - (1 - 0.8^4)^32 > 0.9999999
LONGEST = 20_000  # characters: a longer text is compared by its beginning
BUCKET = 128  # members of a bucket that are all compared; in a larger one each is compared with the BUCKET next ones
MAX_NEAR = 100_000  # rows compared for near duplicates; at 1,000 characters a row they take 400 MB and 15 seconds
BLOCK = 1 << 14  # shingles hashed at a time, so that a block stays in the processor's cache

UInt32 = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]

FAULTS = {
    # A few copies are ordinary, and copies may be a way to give rows more weight; nobody should do it unawares.
    "exact_duplicates": Fault(
        "rows that repeat an earlier row word for word", "remove the copies, or give the source a weight.", 0.01
    ),
    "near_duplicates": Fault(
        "rows nearly the same as an earlier one",
        "keep one of each; a long instruction shared by many rows belongs in the system message.",
        0.05,
    ),
    # Several answers to a question teach their average; data of many samples per prompt does this on purpose.
    "conflicting_answers": Fault(
        "rows whose prompt has another answer elsewhere",
        "keep the better answer, or make preferences of them and use a preference method.",
        0.01,
    ),
    # A few leaked rows make a held-out figure a little too good; one in ten makes it a figure of the training data.
    "leaked_prompts": Fault(
        "held-out rows whose prompt is in the training data",
        "remove these rows from the training data; what is measured on them says nothing.",
        0.0,
        0.1,
    ),
    "leaked_nearly": Fault(
        "held-out rows nearly the same as a training row",
        "look at the pairs, and remove these rows from the training data where they ask the same.",
    ),
}


def check_duplicates(
    records: Sequence[Record], held_out: Sequence[Record] = (), *, max_near: int = MAX_NEAR
) -> list[Finding]:
    """Exact and near duplicates among `records`, prompts with several answers, and what of `held_out` is in `records`.
    Of more than `max_near` rows an evenly spaced part is compared for near duplicates, and the finding says so; 0
    leaves near duplicates out."""
    keys = [key(record) for record in records]
    copies = repeats(keys)
    found = [_judge("exact_duplicates", copies, records, records), _conflicts(records)]
    copied = {i for i, _ in copies}
    fresh = _spaced([i for i in range(len(records)) if i not in copied], max_near)
    if max_near:
        matches = near_matches([keys[i] for i in fresh])
        pairs = [(fresh[j], fresh[i]) for j, i in matches.items()]
        found.append(_judge("near_duplicates", pairs, records, records, total=len(fresh)))
    if held_out:
        found += _leaks(records, keys, held_out, fresh if max_near else [])
    return found


def _spaced(places: Sequence[int], most: int) -> Sequence[int]:
    return places[:: -(-len(places) // most)] if most and len(places) > most else places


def key(record: Record) -> str:
    """The text by which two rows are compared: prompt and answers, without the system message."""
    match record:
        case Document():
            return record.text
        case Principle():
            return f"{record.critique}\n\n{record.revision}"
        case _:
            parts = [part for prompt, answer in dialogues(record) for part in (asked(prompt), said(answer))]
            return "\n\n".join(dict.fromkeys(parts))


def repeats(keys: Iterable[object]) -> list[tuple[int, int]]:
    """(place, earlier place) of every key that was there before."""
    first: dict[object, int] = {}
    return [(i, j) for i, k in enumerate(keys) if (j := first.setdefault(k, i)) != i]


def near_matches(texts: Sequence[str], num_known: int | None = None) -> dict[int, int]:
    """The place of every text that is nearly the same as an earlier one, with the first such place; with `num_known`,
    of every text from there on that is nearly the same as one before there."""
    shingles = [shingle_hashes(text) for text in texts]
    signature = signatures(shingles)
    pairs = _candidates(signature)
    if num_known is not None:
        pairs = pairs[(pairs[:, 0] < num_known) & (pairs[:, 1] >= num_known)]
    # The share of equal entries estimates the index, at 0.8 with a standard deviation of 0.035: what is five of them
    # below the bar is dropped, and an exact comparison decides over the rest.
    blocks = np.array_split(pairs, len(pairs) // BLOCK + 1)
    near = np.concatenate([_agreement(signature, block) >= ALIKE - 5 * 0.035 for block in blocks])
    found: dict[int, int] = {}
    for i, j in pairs[near].tolist():
        if j not in found and jaccard(shingles[i], shingles[j]) >= ALIKE:
            found[j] = i
    return found


def shingle_hashes(text: str) -> UInt32:
    """The set of a text's 8-character shingles, hashed, in order; case and runs of white space do not count."""
    plain = " ".join(text[:LONGEST].casefold().split())
    codes = np.frombuffer(plain.ljust(SHINGLE).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    width = len(codes) - SHINGLE + 1
    mixed = np.zeros(width, dtype=np.uint32)
    for offset in range(SHINGLE):
        mixed = (mixed ^ codes[offset : offset + width]) * np.uint32(0x9E3779B1)
        mixed ^= mixed >> np.uint32(15)
    mixed.sort()
    return mixed[np.concatenate(([True], mixed[1:] != mixed[:-1]))]


def signatures(shingles: Sequence[UInt32]) -> UInt32:
    """[texts, 128] MinHash signatures. A permutation is h -> a h + b mod 2^32 with odd a, over hashes already mixed."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 1 << 32, NUM_PERMUTATIONS, dtype=np.uint32) | np.uint32(1)
    terms = rng.integers(0, 1 << 32, NUM_PERMUTATIONS, dtype=np.uint32)
    out = np.empty((len(shingles), NUM_PERMUTATIONS), dtype=np.uint32)
    for first, last in _blocks([len(s) for s in shingles]):
        flat = np.concatenate(shingles[first:last])
        starts = np.cumsum([0, *(len(s) for s in shingles[first : last - 1])])
        work = np.empty_like(flat)
        for i in range(NUM_PERMUTATIONS):
            np.multiply(flat, factors[i], out=work)
            np.add(work, terms[i], out=work)
            out[first:last, i] = np.minimum.reduceat(work, starts)
    return out


def jaccard(a: UInt32, b: UInt32) -> float:
    """The share of common members in two sorted sets."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = held = 0
    for i, length in enumerate(lengths):
        if held and held + length > BLOCK:
            yield first, i
            first, held = i, 0
        held += length
    if lengths:
        yield first, len(lengths)


def _candidates(signature: UInt32) -> Pairs:
    """Pairs of texts that agree in a whole band, each once and in order."""
    found = [np.empty(0, dtype=np.int64)]
    # A hash of the band stands for it: two bands that share one propose a pair too many, which is compared and dropped.
    factors = np.random.default_rng(1).integers(0, 1 << 63, BAND, dtype=np.uint64) | np.uint64(1)
    for start in range(0, NUM_PERMUTATIONS, BAND):
        band = (signature[:, start : start + BAND] * factors).sum(1)
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        for step in range(1, min(BUCKET, len(order))):
            same = ordered[step:] == ordered[:-step]
            if not same.any():
                break
            found.append(order[:-step][same] << 32 | order[step:][same])
    codes = np.unique(np.concatenate(found))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _agreement(signature: UInt32, pairs: Pairs) -> npt.NDArray[np.float64]:
    return np.asarray((signature[pairs[:, 0]] == signature[pairs[:, 1]]).mean(1, dtype=np.float64))


def _conflicts(records: Sequence[Record]) -> Finding:
    """Prompts that have several answers among conversations, or preferences that contradict each other."""
    answers: dict[str, dict[str, int]] = {}
    rows: list[tuple[int, str]] = []
    for i, record in enumerate(records):
        if isinstance(record, Conversation):
            ((prompt, answer),) = dialogues(record)
            words = "\n\n".join(f"{m.role}: {m.content}" for m in prompt)
            rows.append((i, words))
            answers.setdefault(words, {}).setdefault(said(answer), i)
    clashing = []
    for i, words in rows:
        others = list(answers[words].values())
        if len(others) > 1:
            clashing.append((i, others[1] if others[0] == i else others[0]))
    return _judge("conflicting_answers", clashing, records, records, total=len(rows))


def _leaks(
    records: Sequence[Record], keys: Sequence[str], held_out: Sequence[Record], compared: Sequence[int]
) -> list[Finding]:
    trained: dict[str, int] = {}
    for i, record in enumerate(records):
        trained.setdefault(_prompt(record), i)
    exact = [(i, trained[p]) for i, record in enumerate(held_out) if (p := _prompt(record)) in trained]
    found = [_judge("leaked_prompts", exact, held_out, records)]
    if compared:
        told = {i for i, _ in exact}
        rest = [i for i in range(len(held_out)) if i not in told]
        texts = [*(keys[i] for i in compared), *(key(held_out[i]) for i in rest)]
        matches = near_matches(texts, len(compared))
        pairs = [(rest[j - len(compared)], compared[i]) for j, i in matches.items()]
        found.append(_judge("leaked_nearly", pairs, held_out, records))
    return found


def _prompt(record: Record) -> str:
    """What is asked, by which a held-out row is recognised; a document is recognised by its text."""
    first = next(dialogues(record), None)
    words = "" if first is None else " ".join(asked(first[0]).casefold().split())
    return words or key(record)


def _judge(
    code: str,
    matches: Sequence[tuple[int, int]],
    rows: Sequence[Record],
    others: Sequence[Record],
    *,
    total: int | None = None,
) -> Finding:
    """`matches`: (index in rows, index of its like in others)."""
    matches = sorted(matches)
    shown = [example(rows[i].source, f"{like(rows[i], others[j])}: {key(rows[i])}") for i, j in matches[:5]]
    return judge(code, FAULTS[code], len(matches), len(rows) if total is None else total, shown)


def like(row: Record, other: Record) -> str:
    """Where the other row is, without the name of a file that is the same."""
    file, _, line = other.source.rpartition(":")
    return f"like line {line}" if line.isdigit() and row.source.rpartition(":")[0] == file else f"like {other.source}"
