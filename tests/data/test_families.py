"""The chat templates of public model families, from the installed trl and never copied: what is trained is what the
assistant says, behind the prompt that the model is asked with. trl's own marks are a second opinion, and every
difference from them is explained here."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.shipped import shipped
from posttrain.data.template import render, render_prompt, stop_token_ids
from posttrain.errors import DataError
from posttrain.types import Conversation, Message, Sample, ToolCall

trl = pytest.importorskip("trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"
FAMILIES = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
FAMILY = {template: family for family, told in FAMILIES.items() for template in told.get("templates", ())}

NUMBER = {"type": "integer", "description": "A number."}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]},
    },
}
CALL = ToolCall("add", '{"a": 1, "b": 2}', "call00001")
ASKED, SAID = Message("user", "Where?"), Message("assistant", "In Paris.")
ASKED_ON, SAID_ON = Message("user", "When?"), Message("assistant", "At noon.")
THOUGHT = Message("assistant", "In Paris.", reasoning="They ask for a place.")
THOUGHT_ON = Message("assistant", "At noon.", reasoning="A time.")
TALKS = {
    "question": Conversation((ASKED, SAID)),
    "turns": Conversation((ASKED, SAID, ASKED_ON, SAID_ON)),
    "system": Conversation((Message("system", "Be brief."), ASKED, SAID, ASKED_ON, SAID_ON)),
    "thoughts": Conversation((ASKED, THOUGHT, ASKED_ON, THOUGHT_ON)),
    "tools": Conversation(
        (
            Message("user", "1 + 2?"),
            Message("assistant", "", tool_calls=(CALL,)),
            Message("tool", "3", tool_call_id=CALL.id, name=CALL.name),
            Message("assistant", "Three."),
        ),
        tools=(ADD,),
    ),
}


@dataclass(frozen=True)
class Says:
    """What a template makes of an answer: its words, reasoning ("": never shown), a call ("": the format has none)."""

    answer: str
    thought: str = ""
    call: str = ""
    after_call: str = ""

    def expected(self, name: str) -> list[str]:
        if name == "tools":
            return [self.call, (self.after_call or self.answer).replace("WORDS", "Three.")]
        shown = self.thought if name == "thoughts" and self.thought else self.answer
        pairs = (("In Paris.", "They ask for a place."), ("At noon.", "A time."))[: 1 if name == "question" else 2]
        return [shown.replace("WORDS", words).replace("THOUGHT", thought) for words, thought in pairs]


HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>'
XML = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n"
XML += "</function>\n</tool_call>"
LLAMA = Says("WORDS<|eot_id|>", call='{"name": "add", "parameters": {"a": 1, "b": 2}}<|eot_id|>')
CHATML = Says("WORDS<|im_end|>", call=HERMES)
# Behind a prompt that has opened the block of thoughts.
OPENED = Says("\n</think>\n\nWORDS<|im_end|>", "THOUGHT\n</think>\n\nWORDS<|im_end|>", f"\n</think>\n\n{XML}<|im_end|>")
GEMMA = Says("WORDS<end_of_turn>")
GEMMA4_CALL = "<|tool_call>call:add{a:1,b:2}<tool_call|>"
GEMMA4 = Says("WORDS<turn|>", call=GEMMA4_CALL + "<|tool_response>")
GEMMA4_THOUGHT = "<|channel>thought\nTHOUGHT\n<channel|>WORDS<turn|>"
PHI = Says("WORDS<|end|><|endoftext|>")
LFM = Says("WORDS<|im_end|>", call="<|tool_call_start|>[add(a=1, b=2)]<|tool_call_end|><|im_end|>")
LFM_THINKS = Says(LFM.answer, "<think>THOUGHT</think>WORDS<|im_end|>", LFM.call)
SAYS = {
    "llama3": Says("WORDS<|eot_id|>"),
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "qwen2_5": CHATML,
    "qwen2_5_vl": Says("WORDS<|im_end|>"),
    "qwen3": Says(
        "<think>\n\n</think>\n\nWORDS<|im_end|>",
        "<think>\nTHOUGHT\n</think>\n\nWORDS<|im_end|>",
        f"<think>\n\n</think>\n\n{HERMES}",
    ),
    "qwen3_instruct_2507": CHATML,
    "qwen3_vl": CHATML,
    "qwen3_5_think": OPENED,
    "qwen3_5_nothink": Says("WORDS<|im_end|>", call=f"{XML}<|im_end|>"),
    "qwen3_6": OPENED,
    "qwen3_8": OPENED,
    "gemma": GEMMA,
    "gemma3": GEMMA,
    "gemma4": GEMMA4,
    "gemma4_v2": Says("WORDS<turn|>", call=GEMMA4_CALL + "<turn|>"),
    "gemma4_v3": GEMMA4,
    "gemma4_v4": GEMMA4,
    "gemma4_v5": Says("WORDS<turn|>", GEMMA4_THOUGHT, GEMMA4.call),
    # Behind a tool's result this template asks with nothing, so that the model has to open the turn by itself.
    "diffusion_gemma": Says("WORDS<turn|>", GEMMA4_THOUGHT, GEMMA4.call, "<|turn>model\nWORDS<turn|>"),
    "phi3": PHI,
    "phi3_5": PHI,
    "deepseekv3": Says(""),
    "deepseek_r1_distill": Says(""),
    "cohere": Says("WORDS<|END_OF_TURN_TOKEN|>"),
    "cohere2": Says("WORDS<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "gptoss": Says(
        "<|channel|>final<|message|>WORDS<|return|>",
        "<|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>WORDS<|return|>",
        ' to=functions.add<|channel|>commentary json<|message|>{"a": 1, "b": 2}<|call|>',
    ),
    "glm4moe": Says(""),
    "lfm2": Says("WORDS<|im_end|>"),
    "lfm2_v2": LFM,
    "lfm2_2_5": LFM_THINKS,
    "lfm2_2_5_v2": LFM_THINKS,
    "nemotron_3_nano": Says("", "THOUGHT\n</think>\nWORDS<|im_end|>"),
    "nemotron_3_super": Says("", "THOUGHT\n</think>\nWORDS<|im_end|>"),
    "nemotron_3_ultra": Says("", "THOUGHT</think>WORDS<|im_end|>"),
    "nemotron_3_5_lightning": Says("", "THOUGHT</think>WORDS<|im_end|>"),
    "muse_glimmer": Says(
        " to=user<|message|>WORDS<|eot|>",
        " to=self<|message|>THOUGHT<|eom|><|start|>assistant to=user<|message|>WORDS<|eot|>",
        ' to=add<|message|><atem:function_calls>\n<atem:invoke name="add">\n<atem:parameter name="a">1'
        '</atem:parameter>\n<atem:parameter name="b">2</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>',
    ),
    "smolvlm": Says(""),
    "idefics3": Says(""),
    "llava_next": Says(""),
}

# What is refused, and by which words. A turn that cannot be trained as it is meant is named.
RAISED = "the chat template refuses this conversation"
UNLIKE = r"'messages\[[12]\]': the chat template begins this turn otherwise than it asks for it"
ENDLESS = r"'messages\[[123]\]': the chat template ends an assistant turn without a stop token"
UNSHOWN = r"'messages\[[12]\]': the chat template does not show"
EVERY = tuple(TALKS)
REFUSED: dict[str, dict[str, str]] = {
    # No place for a call: an empty answer would be trained in its stead.
    **{name: {"tools": UNSHOWN} for name in ("llama3", "qwen2_5_vl", "phi3", "phi3_5", "lfm2")},
    "gemma": {"system": f"{RAISED}: System role not supported", "tools": RAISED},
    "gemma3": {"tools": RAISED},
    "cohere": {"tools": RAISED},
    "cohere2": {"tools": RAISED},
    # The prompt has closed the block of thoughts before the answer begins.
    "qwen3_5_nothink": {"thoughts": UNLIKE},
    # The prompt opens a block of thoughts that no answer without thoughts has.
    **{name: dict.fromkeys(("question", "turns", "system", "tools"), UNLIKE) for name in SAYS if "nemotron" in name},
    # The prompt opens a block of thoughts that no answer is shown with.
    "deepseekv3": dict.fromkeys(EVERY, UNLIKE),
    "deepseek_r1_distill": dict.fromkeys(EVERY, UNLIKE),
    # What ends an answer is the next turn's first token, which is not there yet.
    "glm4moe": dict.fromkeys(EVERY, ENDLESS),
    # A content must be a list of text and pictures.
    "smolvlm": dict.fromkeys(EVERY, UNSHOWN) | {"tools": RAISED},
    "idefics3": dict.fromkeys(EVERY, UNSHOWN) | {"tools": RAISED},
    "llava_next": dict.fromkeys(EVERY, RAISED),
}
CASES = [(template, name) for template in SAYS for name in TALKS]
TRAINED = [(template, name) for template, name in CASES if name not in REFUSED.get(template, ())]


@pytest.fixture(scope="module")
def of(family_tokenizer: Callable[[str], Any]) -> Callable[[str], Any]:
    """The tokenizer of a template's family, with that template."""
    made: dict[str, Any] = {}

    def get(template: str) -> Any:
        if template not in made:
            made[template] = family_tokenizer(FAMILY[template])
            made[template].chat_template = source(template)
        return made[template]

    return get


def source(template: str) -> str:
    return (FOLDER / f"{template}.jinja").read_text(encoding="utf-8")


Row = tuple[list[int], list[float]]


def rows(sample: Sample) -> list[Row]:
    """Every root-to-leaf path of a tree: its ids and weights."""
    inner = {segment.parent for segment in sample.segments}
    found: list[Row] = []
    for leaf in (index for index in range(len(sample.segments)) if index not in inner):
        line, index = [], leaf
        while index >= 0:
            line.insert(0, sample.segments[index])
            index = sample.segments[index].parent
        found.append(([t for s in line for t in s.token_ids], [w for s in line for w in s.weights]))
    return found


def runs(weights: list[float] | list[int]) -> list[tuple[int, int]]:
    """Where trained tokens stand, as [start, end)."""
    edges = [i for i in range(len(weights) + 1) if bool([0, *weights][i]) != bool([*weights, 0][i])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def answers(sample: Sample) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Each trained answer behind what stands before it."""
    return {tuple(ids[:start]): tuple(ids[start:end]) for ids, w in rows(sample) for start, end in runs(w)}


def test_every_template_is_looked_at() -> None:
    """At least twelve families, and every template of theirs that trl has is either trained or refused in words."""
    assert FAMILY.keys() == SAYS.keys()
    assert len({FAMILY[template] for template, _ in TRAINED}) >= 12


@pytest.mark.parametrize(("template", "name"), TRAINED)
def test_what_is_trained(of: Callable[[str], Any], template: str, name: str) -> None:
    """Exactly the answers with their stop tokens, each once, behind the very tokens that the model is asked with."""
    tokenizer, talk = of(template), TALKS[name]
    found = answers(render(talk, tokenizer))
    assert [tokenizer.decode(answer) for answer in found.values()] == SAYS[template].expected(name)
    turns = [turn for turn, message in enumerate(talk.messages) if message.role == "assistant"]
    assert [list(prompt) for prompt in found] == [
        render_prompt(talk.messages[:turn], tokenizer, talk.tools) for turn in turns
    ]
    stops = stop_token_ids(tokenizer)
    assert name == "tools" or all(answer[-1] == stops[0] for answer in found.values())


@pytest.mark.parametrize(("template", "name"), [(t, n) for t, n in CASES if (t, n) not in TRAINED])
def test_what_is_refused(of: Callable[[str], Any], template: str, name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[template][name]):
        render(TALKS[name], of(template))


@dataclass(frozen=True)
class Peer:
    """Where trl's marks differ at every answer: what it trains before and behind it as well."""

    before: str = ""
    behind: str = "\n"  # nobody samples a newline after a stop token


NO_NEWLINE = Peer(behind="")
HEADER = Peer("<|start|>assistant", "")  # trained as the answer's, though the prompt has written it
PEERS = {
    "llama3": NO_NEWLINE,
    "qwen2_5": Peer("\n"),  # the header's newline, which is the prompt's
    "qwen2_5_vl": Peer(),
    "qwen3": Peer(),
    "qwen3_instruct_2507": Peer(),
    "qwen3_vl": Peer(),
    "qwen3_5_think": Peer("<think>\n"),  # written by the prompt, here and below
    "qwen3_5_nothink": Peer("<think>\n\n</think>\n\n"),
    "qwen3_6": Peer("<think>\n"),
    "qwen3_8": Peer("<think>\n"),
    "gemma": Peer(),
    "gemma3": Peer(),
    "diffusion_gemma": Peer(),
    "phi3": NO_NEWLINE,
    "phi3_5": NO_NEWLINE,
    "cohere": NO_NEWLINE,
    "cohere2": NO_NEWLINE,
    "gptoss": HEADER,
    "lfm2": Peer(),
    "lfm2_v2": Peer(),
    "lfm2_2_5": Peer(),
    "lfm2_2_5_v2": Peer(),
    "nemotron_3_nano": Peer("<think>\n"),
    "nemotron_3_super": Peer("<think>\n"),
    "nemotron_3_ultra": Peer("<think>\n"),
    "nemotron_3_5_lightning": Peer("<think>\n"),
    "muse_glimmer": HEADER,
}
# trl's variant keeps the thoughts of earlier answers, so that it trains behind a history which the deployed template
# never shows.
LATER = ("turns", "system", "thoughts")
OTHER_TEXT = {
    "qwen3": (*LATER, "tools"),
    "qwen3_5_think": LATER,
    "qwen3_5_nothink": LATER[:2],
    "qwen3_6": LATER,
}
# The same text in other tokens: one token, "\n\n", reaches over the end of the prompt, as it never does when the model
# is asked.
OTHER_TOKENS = {
    "qwen3_5_think": ("question", "tools"),
    "qwen3_6": ("question", "tools"),
    "qwen3_8": ("question", "turns", "system", "tools"),
}
# trl leaves the token out that ends a call (it opens the tool's result), so that a model would not learn to stop there;
# and what the template asks the model to open by itself, see above.
OTHER_MASK = {("diffusion_gemma", "tools"): {"<|tool_response>", "<|turn>model\n"}}


def second_opinion(template: str, talk: Conversation, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids and mask by transformers, from the generation marks of trl's variant of the template."""
    marked = f"{template}_training"
    messages = []
    for message in talk.messages:
        made: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            made |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
        if message.tool_calls:
            made["tool_calls"] = [
                {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": json.loads(c.arguments)}}
                for c in message.tool_calls
            ]
        if message.role == "tool":
            made |= {"tool_call_id": message.tool_call_id, "name": message.name}
        messages.append(made)
    out = tokenizer.apply_chat_template(
        messages,
        tools=list(talk.tools) or None,
        chat_template=source(marked if (FOLDER / f"{marked}.jinja").is_file() else template),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return out["input_ids"], out["assistant_masks"]


def widened(ids: list[int], weights: list[float], peer: Peer, tokenizer: Any) -> list[int]:
    """Our mask, with what the peer trains around each answer."""
    mask = [int(weight > 0) for weight in weights]
    for start, end in runs(weights):
        first = next(i for i in range(start, -1, -1) if tokenizer.decode(ids[i:start]) == peer.before)
        ends = range(end, len(ids) + 1)
        last = next((i for i in ends if tokenizer.decode(ids[end:i]) == peer.behind), end)  # some turns end otherwise
        mask[first:last] = [1] * (last - first)
    return mask


PAIRS = [(template, name) for template, name in TRAINED if template in PEERS]


@pytest.mark.parametrize(("template", "name"), PAIRS)
def test_a_second_opinion(of: Callable[[str], Any], template: str, name: str) -> None:
    tokenizer = of(template)
    sample = render(TALKS[name], tokenizer)
    (ids, weights) = rows(sample)[-1]
    others, mask = second_opinion(template, TALKS[name], tokenizer)
    said = [tokenizer.decode(others[start:end]) for start, end in runs(mask)]
    peer = PEERS[template]
    if name in OTHER_TEXT.get(template, ()):
        assert tokenizer.decode(others) != tokenizer.decode(ids)
        assert said == [peer.before + text + peer.behind for text in spoken(sample, tokenizer)]
    elif name in OTHER_TOKENS.get(template, ()):
        assert tokenizer.decode(others) == tokenizer.decode(ids)
        assert said == [peer.before + text + peer.behind for text in spoken(sample, tokenizer)]
        prompts = list(answers(sample))
        assert all(tuple(ids[: len(prompt)]) == prompt != tuple(others[: len(prompt)]) for prompt in prompts)
    else:
        assert others == ids
        ours = widened(ids, weights, peer, tokenizer)
        # Where our sample is a tree, its last path trains the last answer: the earlier ones stand in it as history,
        # which the peer trains behind a prompt that shows them otherwise than they were said.
        start = runs(ours)[0][0] if len(sample.segments) > 1 else 0
        alone = {tokenizer.decode(ids[a:b]) for a, b in runs([int(x > y) for x, y in zip(ours, mask, strict=True)])}
        assert alone == OTHER_MASK.get((template, name), set())
        assert [o or not m for o, m in zip(ours, mask, strict=True)][start:] == [True] * (len(ids) - start)


def spoken(sample: Sample, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(answer) for answer in answers(sample).values()]


def test_the_peer_trains_what_the_prompt_has_written(of: Callable[[str], Any]) -> None:
    """The control: without the table, the masks are unlike."""
    tokenizer = of("gptoss")
    (ids, weights), (_, mask) = (
        rows(render(TALKS["question"], tokenizer))[0],
        second_opinion("gptoss", TALKS["question"], tokenizer),
    )
    assert mask == widened(ids, weights, HEADER, tokenizer) != widened(ids, weights, NO_NEWLINE, tokenizer)


LIKE = {"llama3": "llama3", "chatml": "qwen2_5", "qwen3": "qwen3", "gemma": "gemma3", "phi": "phi3"}


@pytest.mark.parametrize(("name", "template"), LIKE.items())
def test_the_shipped_templates_are_the_families(of: Callable[[str], Any], name: str, template: str) -> None:
    """Letter by letter in a plain talk, but for what the Phi template adds: its begin token is left to the tokenizer,
    and its end token stands once behind all of a conversation."""
    tokenizer = of(template)
    messages = [{"role": m.role, "content": m.content} for m in TALKS["system"].messages]
    for asked, shown in ((False, messages), (True, messages[:4])):
        ours, theirs = (
            tokenizer.apply_chat_template(shown, chat_template=text, tokenize=False, add_generation_prompt=asked)
            for text in (shipped(name).text, source(template))
        )
        if name == "phi":
            ours, theirs = ours.removeprefix("<s>"), theirs.removesuffix("<|endoftext|>")
        assert ours == theirs


@pytest.mark.parametrize("words", ["Paris.", "\n\nParis.", " Paris.", "\nParis"])
@pytest.mark.parametrize("family", [family for family, told in FAMILIES.items() if "shipped" in told])
def test_white_space_before_an_answer(family_tokenizer: Callable[[str], Any], family: str, words: str) -> None:
    """No token reaches from the prompt into the answer, none is added between them, and the stop token is trained, also
    where it swallows the white space behind it."""
    tokenizer = family_tokenizer(family)
    ((prompt, answer),) = answers(render(Conversation((ASKED, Message("assistant", words))), tokenizer)).items()
    assert list(prompt) == render_prompt([ASKED], tokenizer)
    assert answer[-1] == stop_token_ids(tokenizer)[0]
    assert tokenizer.added_tokens_decoder[answer[-1]].special
    if FAMILIES[family]["kind"] in ("byte", "gpt2"):
        assert tokenizer.decode(answer[:-1]) == words
    else:  # decoding would take a space from the start
        assert "".join(tokenizer.convert_ids_to_tokens(answer[:-1])).replace("\u2581", " ") == words


def test_templates_that_trl_has_besides() -> None:
    """What the installed trl knows and this file does not: variants for training, and one for pictures."""
    known = {path.stem for path in FOLDER.glob("*.jinja") if not re.search("_training$", path.stem)}
    assert known - SAYS.keys() == {"lfm2_2_5_vl"}
