"""What a model says before and after: the first thing a person wants to see of a run."""

from collections.abc import Sequence

from posttrain.data.template import render_prompt, stop_token_ids
from posttrain.models.load import Policy, context_length
from posttrain.rollouts.generate import generate
from posttrain.train.runlog import RunFolder
from posttrain.types import Conversation, Message

MAX_NEW_TOKENS = 64


def answer(policy: Policy, conversations: Sequence[Conversation], *, with_template: bool) -> list[str]:
    """Greedy answers to each conversation up to its last assistant turn. A model that has not learned the template
    yet is given the bare text of the last user turn, as a base model would be."""
    if not conversations:
        return []
    prompts = [_prompt(conversation) for conversation in conversations]
    if with_template:
        ids = [render_prompt(messages, policy.tokenizer) for messages in prompts]
    else:
        ids = [bare_prompt(policy, messages[-1].content + "\n") for messages in prompts]
    room = context_length(policy) - MAX_NEW_TOKENS
    ids = [row[-room:] for row in ids]  # a prompt over the context keeps its end, which asks
    found = generate(
        policy, ids, max_new_tokens=MAX_NEW_TOKENS, stop_token_ids=stop_token_ids(policy.tokenizer), batch_size=16
    )
    return [policy.tokenizer.decode(row, skip_special_tokens=True).strip() for row in found]


def bare_prompt(policy: Policy, text: str) -> list[int]:
    """Plain text as the model met it in pre-training: after the begin-of-text token, where there is one."""
    begin = policy.tokenizer.bos_token_id
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids if begin is None else [begin, *ids]


def write_samples(
    folder: RunFolder, conversations: Sequence[Conversation], before: Sequence[str], after: Sequence[str]
) -> None:
    """samples.jsonl: prompt, before, after."""
    rows = [
        {
            "prompt": [{"role": message.role, "content": message.content} for message in _prompt(conversation)],
            "before": old,
            "after": new,
        }
        for conversation, old, new in zip(conversations, before, after, strict=True)
    ]
    folder.save("samples.jsonl", rows)


def _prompt(conversation: Conversation) -> tuple[Message, ...]:
    last = max(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
    return conversation.messages[:last] or conversation.messages
