"""From the keys of a verb to a model that can be asked for text, and what asking it has cost."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.models.load import Policy, load
from posttrain.models.logprobs import causal_lm
from posttrain.models.lora import merge_lora
from posttrain.recipes.policy import resolve_model
from posttrain.recipes.sample_answers import weights_digest
from posttrain.rollouts.asking import Spent, TextModel
from posttrain.rollouts.text_models import CachedText, LocalText, RemoteText

Say = Callable[[str], None]


def text_model(
    name: str,
    *,
    url: str | None = None,
    api_key_env: str | None = None,
    cache: str | Path | None = None,
    say: Say | None = None,
    concurrency: int = 16,
    timeout_s: float = 120.0,
    max_retries: int = 4,
    deadline_s: float | None = None,
    slots: int = 32,
    elsewhere: Callable[..., TextModel] | None = None,
    chunk: int = 128,
    **server: Any,
) -> TextModel:
    """`name`: `pocket`, a folder or a Hugging Face name; with `url`, what the server there calls its model. `cache`:
    file that keeps answers. `slots`: answers that a local model writes at once. `server`: more of RemoteText (extra,
    limit_key, top_logprobs). `say`: told what is asked, and how much is kept. `elsewhere`: makes the model of the name
    and the keywords, where other processes do the asking. `chunk`: asks passed on together, where there is a cache.

    Raises ConfigError where the variable `api_key_env` is not set, ModelError where there is no such model.
    """
    model: TextModel
    if elsewhere is not None:
        how = {"concurrency": concurrency, "timeout_s": timeout_s, "max_retries": max_retries, "deadline_s": deadline_s}
        model = elsewhere(name, url=url, api_key_env=api_key_env, **how, **server)
        where = f"on {url} by Ray workers" if url else "in Ray workers"
    elif url is None:
        model = LocalText(_loaded(resolve_model(name)), name=name, identity=local_identity(name), slots=slots)
        where = "in this process"
    else:
        model = RemoteText(
            url,
            name,
            api_key=None if api_key_env is None else _api_key(api_key_env),
            timeout_s=timeout_s,
            retries=max_retries,
            deadline_s=deadline_s,
            concurrency=concurrency,
            **server,
        )
        where = f"on {model.identity['url']}"
    kept = ""
    if cache is not None:
        model = cached = CachedText(model, Path(cache), chunk=chunk)
        broken = f", {cached.num_broken:,} broken lines left out" if cached.num_broken else ""
        kept = f"; {cached.num_kept:,} answers in {cache}{broken}"
    if say is not None:
        say(f"asking {name} {where}{kept}")
    return model


def local_identity(name: str) -> dict[str, str]:
    """What the answers of a local model depend on: digests of its weights (an adapter's own, with the name of its
    base) and of its tokenizer with the chat template; a name on the Hub stands for itself."""
    folder = Path(resolve_model(name))
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "adapter_config.json")
    found = [(folder / file).read_bytes() for file in files if (folder / file).is_file()]
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(each).digest() for each in found)).hexdigest()[:16]
    return weights_digest(str(folder)) | ({"tokenizer": digest} if found else {}) or {"model": name}


def spent_line(model: TextModel, *, price_in: float | None = None, price_out: float | None = None) -> str:
    """What was asked of a model so far, in a line. Prices are of a million tokens, in any currency."""
    spent = model.spent
    parts = [f"{spent.asked:,} asked"]
    parts += [f"{spent.failed:,} failed"] if spent.failed else []
    parts += [f"{spent.from_cache:,} from the cache"] if spent.from_cache else []
    tokens = f"{spent.prompt_tokens:,} tokens in, {spent.completion_tokens:,} out"
    line = f"{model.name}: {', '.join(parts)}; {tokens}"
    cost = cost_of(spent, price_in=price_in, price_out=price_out)
    return line if cost is None else f"{line}; cost {cost:,.4f}"


def cost_of(spent: Spent, *, price_in: float | None, price_out: float | None) -> float | None:
    """What the tokens cost, at prices of a million; None where no price is given."""
    if price_in is None and price_out is None:
        return None
    return (spent.prompt_tokens * (price_in or 0) + spent.completion_tokens * (price_out or 0)) / 1e6


def _loaded(folder: str) -> Policy:
    policy = load(folder)
    return policy if causal_lm(policy.model) is policy.model else merge_lora(policy)


def _api_key(variable: str) -> str:
    found = os.environ.get(variable, "").strip()
    if not found:
        raise ConfigError(f"api_key_env names {variable}, and no such environment variable is set; export it.")
    return found
