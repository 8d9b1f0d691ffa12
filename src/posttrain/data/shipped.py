"""The chat templates that come with the package, for base models that have none: Jinja files in `templates/`, written
for this project after the families' public formats."""

from dataclasses import dataclass
from importlib.resources import files

from posttrain.errors import DataError


@dataclass(frozen=True, slots=True)
class Template:
    """A Jinja file and the tokens that it needs in the vocabulary.

    `tokens` become special tokens: they hold turns apart, nobody may type them, and decoding may leave them out.
    `spoken` become added tokens that are not special: an assistant says them (`<think>`, `<tool_call>`), so that
    decoding must show them to whoever parses the answer, and an answer that has them in its text keeps them.
    """

    file: str
    tokens: tuple[str, ...] = ()
    spoken: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The Jinja source."""
        return (files("posttrain.data") / "templates" / self.file).read_text(encoding="utf-8")


_CHATML = ("<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_MISTRAL = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_QWEN3 = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|/tool|>", "<|tool_response|>")
_ZEPHYR = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

SHIPPED = {
    "chatml": Template("chatml.jinja", _CHATML),
    "llama3": Template("llama3.jinja", _LLAMA3, ("<|python_tag|>",)),
    "mistral": Template("mistral.jinja", _MISTRAL, ("[TOOL_CALLS]", "[THINK]", "[/THINK]")),
    "gemma": Template("gemma.jinja", ("<start_of_turn>", "<end_of_turn>")),
    "qwen3": Template("qwen3.jinja", _CHATML, _QWEN3),
    "phi": Template("phi.jinja", _PHI, ("<|tool_call|>", "<|/tool_call|>")),
    "zephyr": Template("zephyr.jinja", _ZEPHYR),
    "alpaca": Template("alpaca.jinja"),
}


def shipped(name: str) -> Template:
    """A shipped template by its name. Raises DataError where there is none of that name."""
    if name not in SHIPPED:
        raise DataError(f"no chat template of that name ({', '.join(SHIPPED)}).", file=name)
    return SHIPPED[name]
