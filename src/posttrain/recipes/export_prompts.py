"""Prompts that an exported model is asked beside the model in fp32."""

from collections.abc import Callable

from posttrain.data.template import control_tokens
from posttrain.errors import DataError
from posttrain.evals.export_reader import PolicyReader
from posttrain.models.llama_cpp import CONTEXT
from posttrain.models.load import context_length
from posttrain.recipes.export_config import ExportConfig
from posttrain.recipes.sample_prompts import pocket_prompts, read_prompts
from posttrain.recipes.suite_options import drawn
from posttrain.rollouts.asking import Ask


def asks_of(config: ExportConfig, reader: PolicyReader, say: Callable[[str], None]) -> list[Ask]:
    """Those drawn by the seed, without those that spell a control token (here it stays text, in other runtimes it may
    become the token) or are too long, which are counted aloud. DataError where none is left."""
    found = read_prompts(config.prompts, None, say) if config.prompts else pocket_prompts(say)
    asks = [Ask(messages=prompt.messages) for prompt in drawn(found, config.num_prompts, config.seed)]
    spelled = control_tokens(reader.policy.tokenizer)
    plain = [ask for ask in asks if not any(token in m.content for m in ask.messages for token in spelled)]
    room = min(context_length(reader.policy), CONTEXT) - config.max_new_tokens
    kept = [ask for ask in plain if len(reader.prompt_ids(ask)) <= room]
    left = {
        "spell a control token: others may take it for one": len(asks) - len(plain),
        f"leave no room for an answer of {config.max_new_tokens} tokens": len(plain) - len(kept),
    }
    told = [f"left out {count:,} prompts that {why}" for why, count in left.items() if count]
    if not kept:
        raise DataError(f"none of the {len(asks):,} prompts can be asked: {'; '.join(told)}; give others by --prompts.")
    for line in told:
        say(line)
    return kept
