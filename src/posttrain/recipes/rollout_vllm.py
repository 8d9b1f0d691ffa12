"""From the keys of rollout_vllm_config.py to servers that sample: who they are, and whether they fit."""

import copy
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from posttrain.errors import ConfigError
from posttrain.models.load import Policy, context_length
from posttrain.recipes.rollout_config import RolloutConfig
from posttrain.recipes.sampler_precision import sampler_dtype
from posttrain.rollouts.endpoint import ServerError
from posttrain.rollouts.sampling import Decoding
from posttrain.rollouts.vllm import VllmServer
from posttrain.rollouts.vllm_sampler import VllmSampler
from posttrain.rollouts.vllm_transfer import AdapterTransfer, ReloadTransfer, Transfer
from posttrain.train import distributed
from posttrain.train.sharding import is_sharded, whole_state

Say = Callable[[str], None]
TEXT = "Two words, 12 digits: was it so?\n"
TRIES = 2  # further attempts at a request, before another server is asked


def server_sampler(config: RolloutConfig, policy: Policy, decoding: Decoding, say: Say) -> VllmSampler:
    """The sampler of a run whose rollouts come from servers. Raises ConfigError where a server, its model or its
    tokenizer does not fit, or none of them answers."""
    if distributed.world() > 1 and config.sampler_timeout >= config.ddp_timeout:
        raise ConfigError(
            f"sampler_timeout {config.sampler_timeout:g} is not under ddp_timeout {config.ddp_timeout}, after which "
            "processes that have their answers give up on one that waits for servers: lower it, or raise ddp_timeout"
        )
    label = distributed.from_main(f"posttrain-{secrets.token_hex(4)}")
    transfer: Transfer = AdapterTransfer(label) if config.transfer == "adapter" else ReloadTransfer(label)
    transfer.check(policy)
    is_lora = config.transfer == "adapter"
    place = Path(config.weight_transfer_dir or Path(config.output_dir) / "handed_over").resolve()
    if config.weight_transfer_dir is None:  # nobody else's: a run that was killed has left its last weights there
        distributed.by_main(lambda: shutil.rmtree(place, ignore_errors=True))
    names = distributed.from_main(distributed.by_main(lambda: _introduced(config, policy, say))) or {}
    servers = [_server(config, policy, url, name) for url, name in names.items()]
    return VllmSampler(
        policy,
        servers,
        transfer,
        place,
        decoding=decoding,
        dtype=sampler_dtype(config, policy),
        deadline_s=config.sampler_timeout,
        min_answered=config.min_answered,
        say=say,
        whole=lambda held: whole_state(held.model, trained_only=is_lora) if is_sharded(held.model) else None,
        by_main=distributed.by_main,
        from_main=distributed.from_main,
    )


def _server(config: RolloutConfig, policy: Policy, url: str, name: str) -> VllmServer:
    key = None
    if config.sampler_api_key_env is not None:
        key = os.environ.get(config.sampler_api_key_env)
        if not key:
            raise ConfigError(
                f"sampler_api_key_env names {config.sampler_api_key_env}, which is not set: put the servers' key there"
            )
    return VllmServer(
        url,
        name,
        tokenizer=copy.deepcopy(policy.tokenizer),  # answers may be read while training goes on
        api_key=key,
        timeout_s=config.sampler_timeout,
        retries=TRIES,
        concurrency=config.sampler_slots,
    )


def _introduced(config: RolloutConfig, policy: Policy, say: Say) -> dict[str, str]:
    """Every address with the name of the model there. One that does not answer now may do so later."""
    found: dict[str, str] = {}
    away = []
    for url in config.sampler:
        server = _server(config, policy, url, config.sampler_model or "")
        try:
            found[url] = _name_of(server, config, policy)
        except ServerError as error:
            away.append(str(error))
    if not found:
        raise ConfigError(f"sampler: none of the {len(away)} servers can be used. {' '.join(away)}")
    for why in away:
        say(f"left out until it answers: {why}")
    if config.sampler_model is None and len(set(found.values())) > 1:
        raise ConfigError(f"sampler: the servers serve different models ({', '.join(sorted(set(found.values())))})")
    name = next(iter(found.values()))
    return {url: found.get(url, name) for url in config.sampler}


def _name_of(server: VllmServer, config: RolloutConfig, policy: Policy) -> str:
    """The model's name there. Raises ConfigError for a model or tokenizer that is not the trainer's."""
    models = server.models()
    bases = [name for name, told in models.items() if not told.get("parent")]
    name = config.sampler_model or (bases[0] if len(bases) == 1 else "")
    if name not in models:
        asked = f"sampler_model {name!r} is not served there" if name else "name one of its models as sampler_model"
        raise ConfigError(f"{server.url}: {asked}; it serves {', '.join(models) or 'nothing'}")
    needed = min(config.max_prompt_length + config.max_completion_length, context_length(policy))
    room = models[name].get("max_model_len")
    if isinstance(room, int) and room < needed:
        raise ConfigError(
            f"{server.url}: it takes {room} tokens, and max_prompt_length with max_completion_length is {needed}: "
            f"start it with --max-model-len {needed} or more, or lower them"
        )
    server.base_model = server.model = name
    theirs, ours = server.read_text(TEXT), policy.tokenizer.encode(TEXT, add_special_tokens=False)
    if theirs is not None and theirs != ours:
        raise ConfigError(
            f"{server.url}: its tokenizer is not the trainer's (it reads {TEXT!r} as {theirs[:8]}, the trainer as "
            f"{ours[:8]}): serve the folder that `model` names"
        )
    return name
