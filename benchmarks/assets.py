"""Models and data for the benchmarks, made from seeds alone: `python benchmarks/assets.py OUT --models small,tiny`.

Models are Qwen3-shaped with random weights, so figures made with them are about speed and never about quality. Text is
made of invented words whose frequencies fall as in a language; lengths are log-normal.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
NUM_WORDS, NUM_ROWS = 24_000, 1500
MEDIAN_WORDS, SPREAD, MAX_WORDS = 83, 0.85, 760  # about 150 tokens in the mean and 1,000 at most
MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A decoder with heads 64 wide."""

    vocab: int
    hidden: int
    layers: int
    intermediate: int
    kv_heads: int


SHAPES = {
    "mini": Shape(1024, 64, 2, 192, 1),  # for resume.py
    "tiny": Shape(8192, 192, 8, 512, 1),
    "small": Shape(16384, 384, 12, 1152, 2),
}


class Language:
    """An endless seeded text: a lexicon of invented words, drawn with frequencies of 1 / (rank + 10)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        lexicon: dict[str, None] = {}
        while len(lexicon) < NUM_WORDS:
            syllables = self.random.choices((1, 2, 3, 4), (1, 4, 4, 1))[0]
            lexicon["".join(self._syllable() for _ in range(syllables))] = None
        self.words = sorted(lexicon, key=len)
        total, self.cumulative = 0.0, []
        for rank in range(NUM_WORDS):
            total += 1 / (rank + 10)
            self.cumulative.append(total)

    def _syllable(self) -> str:
        tail = self.random.choice(("", "", "n", "r", "s"))
        return self.random.choice(CONSONANTS) + self.random.choice(VOWELS) + tail

    def text(self, num_words: int) -> str:
        words = self.random.choices(self.words, cum_weights=self.cumulative, k=num_words)
        return " ".join(words).capitalize() + "."


def rows(num_rows: int, *, median_words: float, max_words: int, seed: int) -> Iterator[dict[str, Any]]:
    """Conversations of one question and one answer; the question takes 10 to 50 % of the words."""
    language, rng = Language(seed), random.Random(seed + 1)
    for _ in range(num_rows):
        words = min(max_words, max(8, round(median_words * rng.lognormvariate(0, SPREAD))))
        asked = max(3, round(words * rng.uniform(0.1, 0.5)))
        yield {
            "prompt": [{"role": "user", "content": language.text(asked)}],
            "completion": [{"role": "assistant", "content": language.text(words - asked)}],
        }


def write_rows(path: Path, num_rows: int, *, median_words: float, max_words: int, seed: int) -> None:
    found = rows(num_rows, median_words=median_words, max_words=max_words, seed=seed)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def train_tokenizer(vocab_size: int, seed: int) -> Any:
    """Byte-level BPE with exactly `vocab_size` entries and a ChatML template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    language = Language(seed)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((language.text(200) for _ in range(3000)), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries, expected {vocab_size}")
    end, _, turn_end = MARKERS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=turn_end,
        pad_token=end,
        extra_special_tokens=list(MARKERS[1:2]),
        chat_template=CHATML,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(shape: Shape, seed: int) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=shape.kv_heads,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config)


def token_counts(tokenizer: Any, path: Path) -> dict[str, float]:
    """How long the rows are, and which share of their tokens is answer."""
    lengths, answers = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        asked = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        lengths.append(len(tokenizer(whole)["input_ids"]))
        answers += lengths[-1] - len(tokenizer(asked)["input_ids"])
    mean = sum(lengths) / len(lengths)
    return {"rows": len(lengths), "mean": round(mean, 1), "max": max(lengths), "answer": answers / sum(lengths)}


def write_model(folder: Path, name: str, data: Path, seed: int) -> dict[str, Any]:
    """A model folder and what is in it, in numbers."""
    tokenizer, model = train_tokenizer(SHAPES[name].vocab, seed), make_model(SHAPES[name], seed)
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return {"parameters": sum(p.numel() for p in model.parameters()), "tokens": token_counts(tokenizer, data)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="small,tiny")
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--median-words", type=float, default=MEDIAN_WORDS)
    parser.add_argument("--max-words", type=int, default=MAX_WORDS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.out / "rows.jsonl"
    write_rows(data, args.rows, median_words=args.median_words, max_words=args.max_words, seed=args.seed)
    made = {name: write_model(args.out, name, data, args.seed) for name in args.models.split(",")}
    (args.out / "assets.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
