"""llama.cpp's own runtime (through llama-cpp-python) as a reader of GGUF files. The one file that imports `llama_cpp`.

It goes the way that its users go: the template that stands in the file, its tokenizer, its computation with keys and
values in fp16, its own list of tokens that end an answer.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.errors import ModelError
from posttrain.models.replies import Reply

CONTEXT = 4096
"""Positions at most: prompts of a check are short, and memory is taken for all of them."""


@cache
def _silence() -> Any:
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)  # noqa: ARG005 (the signature)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    return quiet  # the library keeps the address only


def why_not() -> str:
    """Why llama.cpp cannot be asked here; empty where it can."""
    try:
        import llama_cpp
    except ImportError:
        return "not checked by llama.cpp: not installed (pip install llama-cpp-python)"
    except (OSError, RuntimeError, AttributeError) as error:
        return f"not checked by llama.cpp: it does not load ({error})"
    return "" if hasattr(llama_cpp, "llama_vocab_is_eog") else "not checked by llama.cpp: too old a llama-cpp-python"


class LlamaCppReader:
    """A GGUF file in llama.cpp. `plain`: from messages to the text that asks a model without a chat template.

    Raises ModelError where llama.cpp does not load the file, or has no room for a prompt.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, plain: Callable[[Any], str], *, num_threads: int | None = None) -> None:
        import llama_cpp

        _silence()
        self._lib: Any = llama_cpp
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise ModelError(f"{path}: llama.cpp does not load this file.")
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.room = min(CONTEXT, llama_cpp.llama_model_n_ctx_train(self._model))
        how = llama_cpp.llama_context_default_params()
        how.n_ctx = how.n_batch = self.room
        how.n_threads = how.n_threads_batch = num_threads or torch.get_num_threads()
        self._context: Any = llama_cpp.llama_init_from_model(self._model, how)
        if not self._context:
            raise ModelError(f"{path}: llama.cpp has no memory for a context of {self.room}.")
        self._plain = plain
        self._stops = frozenset(n for n in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, n))
        text = llama_cpp.llama_model_chat_template(self._model, None)
        self.template = text.decode() if text else None

    @property
    def stop_ids(self) -> frozenset[int]:
        """What llama.cpp takes for the end of an answer."""
        return self._stops

    def prompt_ids(self, ask: Any) -> list[int]:
        """As llama.cpp's server does it: the template's text, without a first token that the tokenizer puts there."""
        if self.template is None:
            return self._ids(ask.text or self._plain(ask.messages), begin=True, control=False)
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        begin, end = (self._text_of(number) for number in (self._lib.llama_vocab_bos(self._vocab), self._end()))
        write = Jinja2ChatFormatter(template=self.template, eos_token=end, bos_token=begin)
        rows: Any = [{"role": message.role, "content": message.content} for message in ask.messages]
        text = write(messages=rows).prompt
        if self._lib.llama_vocab_get_add_bos(self._vocab):
            text = text.removeprefix(begin)
        return self._ids(text, begin=True, control=True)

    def text_ids(self, text: str) -> list[int]:
        """A text as it is."""
        return self._ids(text, begin=False, control=False)

    def logps(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> torch.Tensor:
        """[n, V], fp32."""
        first = len(prompt_ids) - 1
        logits = self._run([*prompt_ids, *answer_ids[:-1]], 0, first)
        return torch.from_numpy(logits).log_softmax(-1)

    def replies(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Reply]:
        """The likeliest token again and again, until it is a stop."""
        for prompt in prompts:
            limit = min(max_new_tokens, self.room - len(prompt))
            ids = [int(self._run(prompt, 0, len(prompt) - 1)[-1].argmax())]
            while ids[-1] not in self._stops and len(ids) < limit:
                ids.append(int(self._run(ids[-1:], len(prompt) + len(ids) - 1, 0)[-1].argmax()))
            yield Reply(tuple(ids), self.text(ids))

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text, control tokens left out."""
        return b"".join(self._piece(number) for number in ids).decode("utf-8", errors="replace")

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = self._model = None

    def _run(self, ids: Sequence[int], start: int, first: int) -> np.ndarray:
        """Tokens at positions from `start` on, in an empty memory where that is 0; logits [n, V] from the `first` of
        them on."""
        lib = self._lib
        if start == 0:
            lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        if start + len(ids) > self.room:
            raise ModelError(f"a prompt and its answer take {start + len(ids)} tokens, the check has {self.room}.")
        batch = lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, number in enumerate(ids):
                batch.token[place], batch.pos[place] = number, start + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = place >= first
            if code := lib.llama_decode(self._context, batch):
                raise ModelError(f"llama.cpp could not compute {len(ids)} tokens (code {code}).")
            rows = [lib.llama_get_logits_ith(self._context, place) for place in range(first, len(ids))]
            return np.stack([np.ctypeslib.as_array(row, shape=(self.size,)).copy() for row in rows])
        finally:
            lib.llama_batch_free(batch)

    def _ids(self, text: str, *, begin: bool, control: bool) -> list[int]:
        raw = text.encode()
        space = (self._lib.llama_token * (len(raw) + 8))()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), space, len(space), begin, control)
        if count < 0:
            raise ModelError(f"llama.cpp needs {-count} tokens for a text of {len(raw)} bytes.")
        return list(space[:count])

    def _piece(self, number: int) -> bytes:
        space = ctypes.create_string_buffer(256)
        count = self._lib.llama_token_to_piece(self._vocab, number, space, len(space), 0, False)
        if count < 0:
            space = ctypes.create_string_buffer(-count)
            count = self._lib.llama_token_to_piece(self._vocab, number, space, len(space), 0, False)
        return space.raw[:count]

    def _end(self) -> int:
        return int(self._lib.llama_vocab_eos(self._vocab))

    def _text_of(self, number: int) -> str:
        return "" if number < 0 else self._lib.llama_vocab_get_text(self._vocab, number).decode()
