"""SentencePiece tokenizers of the Llama family (BPE, spaces as ▁, bytes as a last resort) as llama.cpp reads them.

llama.cpp has no merges for them: it joins neighbours while their joint text is a token, the one of the highest score
first (src/llama-vocab.cpp, llm_tokenizer_spm). That is what the merges say only if they stand in the order of the
tokens that they make and none is left out; both are checked, and the check of the export shows it on texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from posttrain.errors import ModelError

SPACE = "▁"
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6  # llama.cpp's types of tokens


def is_sentence_pieces(state: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json holds such a tokenizer."""
    return bool(state["model"]["type"] == "BPE" and state["model"].get("byte_fallback"))


def piece_fields(
    tokenizer: Any, state: Mapping[str, Any], lists: Mapping[str, list[Any]], told: list[str]
) -> dict[str, Any]:
    """Fields of the vocabulary, from its tokens and types. ModelError where llama.cpp would cut otherwise."""
    vocabulary: Mapping[str, int] = state["model"]["vocab"]
    first = _first_merges(state["model"]["merges"], vocabulary)
    types, scores = list(lists["token_type"]), [0.0] * len(lists["tokens"])
    for text, number in vocabulary.items():
        if text in first:
            scores[number] = -float(first[text])
        if types[number] == 1 and len(text) == 6 and text.startswith("<0x"):
            types[number] = BYTE
    if tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = UNKNOWN
    prefix = _has_prefix(tokenizer, told)
    return {"model": "llama", "tokens": lists["tokens"], "token_type": types, "scores": scores} | {
        "add_space_prefix": prefix
    }


def _first_merges(merges: Sequence[Any], vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Of every token that merges make the place of the first. ModelError where another order could come out."""
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in merges]
    first: dict[str, int] = {}
    last = ""
    for place, (left, right) in enumerate(pairs):
        made = left + right
        if made in first and made != last:
            raise ModelError(f"the merges that make {made!r} stand apart, which llama.cpp's scores cannot say.")
        first.setdefault(made, place)
        last = made
    known = set(pairs)
    for text in vocabulary:
        missing = next((cut for cut in _cuts(text, vocabulary) if cut not in known), None)
        if missing and not (text.startswith("<") and text.endswith(">")):
            raise ModelError(
                f"llama.cpp would join {missing[0]!r} and {missing[1]!r}, and the tokenizer has no such merge."
            )
    return first


def _cuts(text: str, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for place in range(1, len(text)):
        if text[:place] in vocabulary and text[place:] in vocabulary:
            yield text[:place], text[place:]


def _has_prefix(tokenizer: Any, told: list[str]) -> bool:
    """Whether a space goes before a text. llama.cpp puts it behind control tokens too; a tokenizer that does so at the
    very start alone is followed in chats, which begin with a control token."""
    inner = tokenizer.backend_tokenizer
    starts = [inner.encode(text, add_special_tokens=False).tokens for text in ("a", f"{tokenizer.eos_token}a")]
    at_start, behind = (SPACE in "".join(starts[0]), SPACE in "".join(starts[1][1:]))
    if at_start and not behind:
        told.append("llama.cpp puts a space before a text or behind control tokens too: left out, as in chats")
    return at_start and (behind or tokenizer.chat_template is None)


def pieces(words: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a file by its scores alone: every pair whose joint text is a token is a merge, the highest score
    first."""
    vocabulary = {text: number for number, text in enumerate(words["tokens"])}
    usual = {text for text, number in vocabulary.items() if words["token_type"][number] in (1, USER_DEFINED)}
    found = [
        (-words["scores"][number], place, cut)
        for text, number in vocabulary.items()
        if text in usual
        for place, cut in enumerate(_cuts(text, vocabulary))
    ]
    merges = [cut for _, _, cut in sorted(found, key=lambda each: each[:2])]
    unknown = words["tokens"][words["unknown_token_id"]] if "unknown_token_id" in words else None
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    before = [normalizers.Prepend(SPACE)] if words.get("add_space_prefix", True) else []
    inner.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    tail = [decoders.Strip(" ", 1, 0)] if before else []
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    if unknown is not None:
        inner.add_special_tokens([AddedToken(unknown, special=True, normalized=False)])
    return inner
