"""`posttrain chat`: a conversation in the terminal, with any model folder and its own template."""

import random

from rich.console import Console

from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.models.load import Policy, context_length, load
from posttrain.recipes.chat_config import ChatConfig
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.preview import bare_prompt
from posttrain.rollouts.generate import generate
from posttrain.types import Message

HELP = "/system TEXT sets the system message · /reset starts anew · /quit leaves (so does Ctrl-D)"


def run(config: ChatConfig) -> int:
    """Read, answer as it is written, remember; until /quit or the end of input."""
    console = Console(highlight=False, soft_wrap=True)
    policy = load(resolve_model(config.model))
    policy.model.eval()
    has_template = policy.tokenizer.chat_template is not None
    console.print(f"{config.model} · {HELP}", style="dim", markup=False)
    if not has_template:
        console.print("a base model without a chat template: it goes on with your text", style="dim")
    system, turns = config.system, list[Message]()
    while True:
        try:
            line = console.input("[bold]you>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return 0
        if line in ("/quit", "/exit"):
            return 0
        if line.startswith("/"):
            system, turns = _command(line, system, turns, console)
        elif line:
            turns = _turn(config, policy, system, [*turns, Message("user", line)], has_template, console)


def _command(line: str, system: str | None, turns: list[Message], console: Console) -> tuple[str | None, list[Message]]:
    name, _, rest = line.partition(" ")
    if name == "/reset":
        console.print("a new conversation", style="dim")
        return system, []
    if name == "/system":
        console.print("system message set; a new conversation" if rest else "no system message", style="dim")
        return rest.strip() or None, []
    console.print(HELP, style="dim", markup=False)
    return system, turns


def _turn(
    config: ChatConfig, policy: Policy, system: str | None, turns: list[Message], has_template: bool, console: Console
) -> list[Message]:
    """Answer the last turn, streaming; returns the conversation with the answer."""
    opening = [Message("system", system)] if system else []
    limit = context_length(policy) - config.max_new_tokens
    while True:
        if has_template:
            prompt = render_prompt([*opening, *turns], policy.tokenizer)
        else:
            prompt = bare_prompt(policy, turns[-1].content)
        if len(prompt) <= max(limit, 1) or len(turns) < 3:
            break
        turns = turns[2:]
        console.print("the conversation is longer than the model's context: its oldest turns are dropped", style="dim")
    console.print(f"[bold]{'assistant' if has_template else 'text'}>[/bold] ", end="")
    try:
        (ids,) = generate(
            policy,
            [prompt],
            max_new_tokens=config.max_new_tokens,
            stop_token_ids=stop_token_ids(policy.tokenizer),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=random.randrange(2**31) if config.seed is None else config.seed + len(turns),
            on_text=lambda text: console.print(text, end="", markup=False),
        )
    except KeyboardInterrupt:
        console.print("\n(stopped; this turn is forgotten)", style="dim")
        return turns[:-1]
    console.print()
    return [*turns, Message("assistant", policy.tokenizer.decode(ids, skip_special_tokens=True))]
