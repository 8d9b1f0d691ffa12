"""Tools on the command line: chat, eval, grpo and ppo call them, fine-tuning learns from transcripts of calls."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from posttrain.data.template import install_template
from posttrain.data.tool_syntax import Said, tool_syntax
from posttrain.errors import ConfigError, DataError
from posttrain.models.attention import ordinary_attention
from posttrain.recipes.chat_tools import Stream, lines, mark_of
from posttrain.recipes.eval_answers import Answers
from posttrain.recipes.eval_config import EvalConfig
from posttrain.recipes.grpo_config import GrpoConfig
from posttrain.recipes.tool_setup import Tools, offered, recipe_toolbox, tool_figures
from posttrain.rollouts.sampling import Completion, Decoding, Request
from posttrain.types import Message, Prompt, Rollout, ToolCall

Inside = Callable[..., Any]
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "EXPRESSION"}}\n</tool_call>'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> dict[str, Path]:
    """Tiny random models with a chat template each, and room for a list of tools."""
    found = {}
    for name in ("chatml", "qwen3", "llama3", "mistral"):
        tokenizer = tiny.tokenizer()
        install_template(tokenizer, name)
        found[name] = tmp_path_factory.mktemp(name)
        tiny.model("llama", vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "sums.jsonl"
    rows = [{"prompt": f"What is {n} * {n}?", "answer": str(n * n)} for n in range(11, 17)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Calls:
    """In place of the sampler: the first answer asks the calculator, the next repeats what it said. Every second member
    of a group answers without. The log-probabilities are the model's."""

    version = 0

    def __init__(self, policy: Any, **_: Any) -> None:
        self.policy, self.tokenizer = policy, policy.tokenizer

    def refresh(self, version: int) -> None:
        self.version = version

    def release(self) -> None:
        """Nothing is held."""

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[list[Completion]]:
        return [[self._one(r, n, decoding) for n, _ in enumerate(r.seeds)] for r in requests]

    def _one(self, request: Request, number: int, decoding: Decoding) -> Completion:
        shown = self.tokenizer.decode(request.prompt_ids)
        if "<|im_start|>tool\n" in shown:
            text = shown.rpartition("<|im_start|>tool\n")[2].partition("<|im_end|>")[0]
        else:
            asked = shown.rpartition("What is ")[2].partition("?")[0]
            text = CALL.replace("EXPRESSION", asked) if number % 2 == 0 else "100"
        ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert len(ids) <= decoding.max_new_tokens
        row = torch.tensor([[*request.prompt_ids, *ids]])
        with ordinary_attention(self.policy.model), torch.no_grad():
            logp_TV = self.policy.model(input_ids=row).logits[0].log_softmax(-1)
        logps = [float(logp_TV[len(request.prompt_ids) - 1 + n, token]) for n, token in enumerate(ids)]
        return Completion(tuple(ids), tuple(logps), "stop", text)


def test_an_evaluation_with_tools(
    inside: Inside, models: dict[str, Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.recipes.eval_asking.PolicySampler", Calls)
    words, own = ["eval", models["chatml"], "--dataset", questions, "--output-dir", tmp_path], tmp_path / "own.py"
    done = inside(*words, "--tools", "calculator")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "eval.json").read_text())
    assert found["figures"]["accuracy"]["value"] == 1
    assert found["figures"]["tools"] == {
        "calls": 6, "calls_per_answer": 1, "answers_with_a_call": 1, "errors": 0, "malformed": 0,
        "by_tool": {"calculator": 6},
    }  # fmt: skip
    assert "6 calls: 1.00 an answer" in done.stdout
    assert found["settings"]["tools"] == ["calculator"]
    row = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert [m["role"] for m in row["samples"][0]["messages"]] == ["assistant", "tool", "assistant"]
    # A second call reads calls and results from the file.
    again = inside(*words, "--tools", "calculator")
    assert "6 questions have their answers already" in again.stdout
    assert json.loads((tmp_path / "eval.json").read_text())["figures"] == found["figures"]
    # Another tool of the same name, and one of the same place with other contents, are asked anew.
    for times in ("1", "2"):
        own.write_text(
            f'def calculator(expression: str) -> str:\n    """Own."""\n    return str(eval(expression) * {times})\n'
        )
        other = inside(*words, "--tools", f"{own}:calculator")
        assert other.returncode == 0, other.stderr
        assert "already" not in other.stdout
        wrong = json.loads((tmp_path / "eval.json").read_text())["figures"]["accuracy"]["value"]
        assert wrong == (times == "1")
    # Without tools these are other questions, and the call is an answer like any other.
    plain = inside(*words)
    assert "already" not in plain.stdout
    figures = json.loads((tmp_path / "eval.json").read_text())
    assert "tools" not in figures["figures"] | figures["settings"]


def test_reinforcement_with_tools(
    inside: Inside, models: dict[str, Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls is right. Counts are logged beside the reward, and cost what a reward says."""
    monkeypatch.setattr("posttrain.recipes.rollout_setup.PolicySampler", Calls)
    words = [
        "grpo", "--model", models["chatml"], "--dataset", questions, "--reward", "numeric", "--max-steps", "1",
        "--num-prompts", "2", "--num-generations", "4", "--max-completion-length", "200", "--max-prompt-length",
        "2000", "--tools", "calculator", "--no-bf16",
    ]  # fmt: skip
    done = inside(*words, "--output-dir", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(row) for row in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()][:1]
    assert line["reward/tool_calls"] == 0.5
    assert line["reward"] == line["reward/numeric"] == pytest.approx(0.5, abs=0.25)
    assert (line["reward/tool_errors"], line["failed"]) == (0, 0)
    priced = inside(*words, "--reward", "tool_calls=-0.5", "--output-dir", tmp_path / "b")
    assert priced.returncode == 0, priced.stderr
    (other,) = [json.loads(row) for row in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()][:1]
    assert other["reward"] == pytest.approx(line["reward"] - 0.25)
    sample = json.loads((tmp_path / "a" / "samples.jsonl").read_text().splitlines()[0])["rollouts"][0]
    told = "".join(p for p, own in zip(sample["pieces"], sample["chosen"], strict=True) if not own)
    assert told.startswith("\n<|im_start|>tool\n")
    weights = [a for a, own in zip(sample["advantages"], sample["chosen"], strict=True) if not own]
    assert weights
    assert set(weights) == {0.0}, "what was told is not trained"


@pytest.mark.parametrize("verb", ["grpo", "ppo"])
def test_a_random_model_with_tools_runs(
    inside: Inside, models: dict[str, Path], questions: Path, tmp_path: Path, verb: str
) -> None:
    """With the real sampler, which writes anything; ten tokens hold no call."""
    done = inside(
        verb, "--model", models["qwen3"], "--dataset", questions, "--reward", "length:1-9", "--max-steps", "2",
        "--num-prompts", "4", "--max-completion-length", "10", "--max-prompt-length", "2000", "--tools", "calculator",
        "--output-dir", tmp_path / "run", "--allow-truncated",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["reward/tool_calls"] == line["reward/tool_malformed"] == 0


def test_a_chat_with_tools(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, inside: Inside) -> None:
    asked = iter(["What is 12 * 12?", "And now?"])
    prompts: list[str] = []

    def says(policy: Any, rows: Any, *, on_text: Any, **_: Any) -> list[list[int]]:
        shown = policy.tokenizer.decode(rows[0])
        prompts.append(shown)
        text = (
            "It is 144."
            if shown.split("<|im_start|>")[-2].startswith("tool")
            else "Hm.\n" + CALL.replace("EXPRESSION", "12 * 12")
        )
        for letter in text:
            on_text(letter)
        return [policy.tokenizer(text)["input_ids"]]

    def line(*_: Any) -> str:
        try:
            return next(asked)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("posttrain.recipes.chat.generate", says)
    monkeypatch.setattr(Console, "input", line)
    done = inside("chat", models["chatml"], "--tools", "calculator")
    assert done.returncode == 0, done.stderr
    assert "tools: calculator" in done.stdout
    assert done.stdout.count('  calculator({"expression": "12 * 12"}) -> 144') == 2
    assert done.stdout.count("It is 144.") == 2
    assert "<tool_call>" not in done.stdout, "a call is shown as one"
    assert "Hm." in done.stdout
    assert '"name": "calculator"' in prompts[0], "the model is told of its tools"
    assert prompts[2].count("<tool_call>\n{") == 1 + prompts[0].count("<tool_call>\n{"), "and remembers its calls"


def chatted(
    monkeypatch: pytest.MonkeyPatch, inside: Inside, asked: Sequence[str], answer: Callable[[str], str], *words: Any
) -> tuple[str, list[str]]:
    """What is on the screen, and the prompts. `answer`: of what the model was shown."""
    prompts: list[str] = []
    left = iter(asked)

    def says(policy: Any, rows: Any, *, max_new_tokens: int, **_: Any) -> list[list[int]]:
        prompts.append(policy.tokenizer.decode(rows[0]))
        return [policy.tokenizer(answer(prompts[-1]))["input_ids"][:max_new_tokens]]

    def line(*_: Any) -> str:
        if (found := next(left, None)) is None:
            raise EOFError
        return found

    monkeypatch.setattr("posttrain.recipes.chat.generate", says)
    monkeypatch.setattr(Console, "input", line)
    done = inside("chat", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout, prompts


def test_a_chat_says_why_a_call_was_not_run(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, inside: Inside
) -> None:
    """Neither past the last call nor in an answer that was cut off, and never in silence."""
    words = (models["chatml"], "--tools", "calculator", "--max-tool-calls", "1")
    endless = lambda shown: CALL.replace("EXPRESSION", f"{len(shown)} + 1")  # noqa: E731
    screen, prompts = chatted(monkeypatch, inside, ["a", "b"], endless, *words)
    assert screen.count("no calls are left; raise max_tool_calls, which is 1)") == 2
    assert len(prompts) == 6
    assert prompts[3].count("+ 1") == 2 < 3, "what nobody answered is not told to the model later"
    for cut in (20, 200):
        call = CALL.replace("EXPRESSION", "1" if cut == 20 else "+".join("1" * 500))
        screen, _ = chatted(monkeypatch, inside, ["a"], lambda _, call=call: call, *words, "--max-new-tokens", cut)
        assert f"was not run: the answer was cut off; raise max_new_tokens, which is {cut})" in screen


def test_a_stopped_turn_is_forgotten_whole(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, inside: Inside
) -> None:
    """Also where a template tells of a broken call in the user's name."""

    def answer(shown: str) -> str:
        if "no tool call" in shown or "cannot be read" in shown:
            raise KeyboardInterrupt
        return "Yes." if "later" in shown else "<tool_call>{"

    monkeypatch.setattr("posttrain.recipes.tool_setup.tool_syntax", lambda t: replace(tool_syntax(t), mends_as="user"))
    words = (models["chatml"], "--tools", "calculator")
    screen, prompts = chatted(monkeypatch, inside, ["first", "later"], answer, *words)
    assert "cannot be read" in prompts[1]
    assert "this turn is forgotten" in screen
    assert "first" not in prompts[2]


def test_results_that_the_context_does_not_hold(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, inside: Inside, tmp_path: Path
) -> None:
    tool = tmp_path / "much.py"
    tool.write_text('def calculator(expression: str) -> str:\n    """Much."""\n    return "ab1 " * 490\n')
    answer = lambda shown: CALL.replace("EXPRESSION", f":smile: {len(shown)}") if "later" not in shown else "Yes."  # noqa: E731
    words = (models["chatml"], "--tools", f"{tool}:calculator")
    screen, prompts = chatted(monkeypatch, inside, ["first", "later"], answer, *words)
    assert "no room for an answer: this turn is longer than the model's context" in screen
    assert '{"expression": ":smile: ' in screen, "colons are no emoji"
    assert "first" not in prompts[-1]
    assert screen.count("no room for an answer") == 1


def test_a_base_model_has_no_way_to_call(
    inside: Inside, base: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ["chat", base], ["eval", base, "--dataset", questions, "--output-dir", tmp_path],
        ["grpo", "--model", base, "--chat-template", "raw", "--dataset", questions, "--reward", "numeric",
         "--output-dir", tmp_path / "run"],
    ):  # fmt: skip
        done = inside(*words, "--tools", "calculator")
        assert done.returncode == 2, words
        assert "tools need a chat template" in done.stderr
        assert "chat_template: chatml" in done.stderr
    monkeypatch.setattr("posttrain.rollouts.tools.named.missing_walls", lambda: "There are no walls.")
    warned = inside("chat", base, "--tools", "python")
    assert warned.stdout.count("There are no walls.") == 1
    unknown = inside("chat", base, "--tools", "calculater")
    assert unknown.returncode == 2
    assert "did you mean 'calculator'" in unknown.stderr


def test_keys() -> None:
    with pytest.raises(ValueError, match="max_tool_calls is given and no tools"):
        EvalConfig(dataset="x", max_tool_calls=3)  # type: ignore[arg-type]
    config = GrpoConfig(dataset="x", reward="numeric", tools="calculator", max_tool_calls=3)  # type: ignore[arg-type]
    assert config.tools == ["calculator"]
    box = recipe_toolbox(config, print)
    assert box is not None
    own = {"type": "function", "function": {"name": "own", "parameters": {}}}
    old = {"type": "function", "function": {"name": "calculator", "parameters": {"old": 1}}}
    (prompt,) = offered([Prompt((Message("user", "a"),), tools=(old, own))], box)
    assert prompt.tools == (own, *box.schemas)
    assert recipe_toolbox(GrpoConfig(dataset="x", reward="numeric"), print) is None  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        recipe_toolbox(GrpoConfig(dataset="x", reward="numeric", tools=["nowhere.py:f"]), print)  # type: ignore[arg-type]
    assert tool_figures([])["calls_per_answer"] == 0


def test_a_call_that_ends_an_answer_is_kept_in_the_file(tmp_path: Path) -> None:
    """An answer that a limit cut off right behind its call has no second message."""
    prompt = Prompt((Message("user", "a"),))
    said = Message("assistant", "", tool_calls=(ToolCall("f", '{"a": 1}', "x"),))
    rollout = Rollout(prompt, (), (1,), (True,), (-1.0,), (said,), finish="length")
    Answers(tmp_path / "answers.jsonl").add("key", prompt, [rollout])
    group = Answers(tmp_path / "answers.jsonl").group("key", prompt)
    assert group is not None
    assert tool_figures([group]) == tool_figures([[rollout]])
    assert tool_figures([group])["calls"] == 1


def test_the_stream_holds_calls_back(tiny: ModuleType) -> None:
    for text, calls in (
        ("Wait <tool>", ()),
        ("So <tool_call>{}", ()),
        ("So <tool_call>{}", (ToolCall("f"),)),
        ("", ()),
    ):
        written: list[str] = []
        stream = Stream(written.append, "<tool_call>")
        for letter in text:
            stream(letter)
        before = "".join(written)
        stream.end(Said(Message("assistant", "", tool_calls=calls)))
        assert "<tool_call>" not in before
        assert "".join(written) == ("So " if calls else text)
    tokenizer = tiny.tokenizer()
    assert mark_of(Tools(None, tool_syntax(tokenizer), 1)) == "<tool_call>"  # type: ignore[arg-type]
    install_template(tokenizer, "llama3")
    assert mark_of(Tools(None, tool_syntax(tokenizer), 1)) == "<|python_tag|>"  # type: ignore[arg-type]
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["[TOOL_CALLS]"], special_tokens=True)
    install_template(tokenizer, "mistral")
    assert mark_of(Tools(None, tool_syntax(tokenizer), 1)) == "[{"  # type: ignore[arg-type]


def test_calls_on_the_screen() -> None:
    """A long call leaves its result to be seen, and lines of a result stand under it."""
    said = Said(Message("assistant", "x", tool_calls=(ToolCall("\x1b[2Jf\x07", "z" * 1000),)))
    (line,) = lines(said, (Message("tool", "a\nb" + "y" * 1000),))
    assert line == f"  f({'z' * 498}… -> a\n    b{'y' * 493}…"
    assert lines(Said(Message("assistant", "x")), (Message("tool", "y"),)) == ["  y"]


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_fine_tuning_on_transcripts_of_calls(
    inside: Inside, models: dict[str, Path], public_data: Path, tmp_path: Path, name: str
) -> None:
    path = public_data / "llama-factory-demos" / "glaive_toolcall_en_demo.json"
    if not path.exists():
        pytest.skip(f"needs {path.name} among the published data sets")
    few = tmp_path / "few.json"
    rows = [row for row in json.loads(path.read_text()) if "function_call" in str(row) and len(str(row)) < 1500]
    few.write_text(json.dumps(rows[:4]))
    done = inside(
        "sft", "--model", models[name], "--dataset", few,
        "--max-length", "2048", "--max-steps", "2", "--logging-steps", "1", "--output-dir", tmp_path / "run",
        "--per-device-train-batch-size", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_a_template_that_writes_no_calls(models: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.jinja"
    bare.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    from posttrain.models.load import load

    tokenizer = load(models["chatml"]).tokenizer
    install_template(tokenizer, str(bare))
    with pytest.raises(DataError, match="shows no tool calls"):
        tool_syntax(tokenizer)
