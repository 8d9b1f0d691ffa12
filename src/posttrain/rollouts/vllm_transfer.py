"""How weights get to a server: as an adapter folder, or as a whole model that it loads again.

Both go over a folder that the trainer can write and every server can read, under one path. A folder is written beside
its name and renamed when it is whole; the newest two stay.
"""

import copy
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import Tensor

from posttrain.errors import ConfigError, ModelError
from posttrain.models.load import Policy, save
from posttrain.models.logprobs import causal_lm
from posttrain.rollouts.endpoint import ServerError
from posttrain.rollouts.vllm import NoSuchModel, NoSuchPath, VllmServer

State = dict[str, Tensor] | None
KEPT = 2
LORA_NEEDS = (
    "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or take weight_transfer reload where the "
    "whole model is trained"
)
FOLDER_NEEDS = "It has to be a folder that trainer and servers share under one path: name one as weight_transfer_dir"
DEV_NEEDS = "start vLLM (0.20 or newer) with VLLM_SERVER_DEV_MODE=1, or train with use_peft and weight_transfer adapter"


class Transfer(Protocol):
    """One way. `label`: a name that no other run has, so that nobody takes another's weights for its own."""

    label: str

    def check(self, policy: Policy) -> None:
        """Raises ConfigError where these weights cannot go this way."""

    def write(self, policy: Policy, folder: Path, state: State) -> None:
        """The weights as they are now; `state`: those of a model that this process holds only a share of."""

    def load(self, server: VllmServer, version: int, folder: Path, *, timeout_s: float) -> None:
        """Make the server serve them. Raises ServerError."""

    def drop(self, server: VllmServer, version: int) -> None:
        """Version `version` will not be asked for again."""


class AdapterTransfer:
    """LoRA weights under a new name each time: what is still under way ends under the old one, and no prefix cache of
    old weights is taken for the new."""

    def __init__(self, label: str) -> None:
        self.label = label

    def name(self, version: int) -> str:
        """The adapter's name at the server."""
        return f"{self.label}-v{version}"

    def check(self, policy: Policy) -> None:
        adapter = _adapter(policy)
        if adapter is None:
            raise ConfigError("weight_transfer adapter needs use_peft: there is no adapter to hand over; or use reload")
        if getattr(adapter, "use_dora", False):
            raise ConfigError("use_dora cannot be handed to vLLM, which serves plain LoRA alone: leave it out")
        if getattr(adapter, "trainable_token_indices", None) or getattr(adapter, "modules_to_save", None):
            raise ConfigError(
                "the chat template adds tokens to this model's vocabulary, and their rows are trained beside the "
                "adapter, which vLLM cannot take over: train and serve a model that has the tokens already (posttrain "
                "sft, then merge), or another chat_template"
            )

    def write(self, policy: Policy, folder: Path, state: State) -> None:
        save(policy, folder, state_dict=state)

    def load(self, server: VllmServer, version: int, folder: Path, *, timeout_s: float) -> None:
        try:
            server.load_adapter(self.name(version), str(folder), timeout_s=timeout_s)
        except NoSuchPath as error:
            raise ServerError(f"{error}{_told(server)} To take an adapter over it needs more: {LORA_NEEDS}.") from None
        except ServerError as error:
            if "No adapter found" in str(error):
                raise ServerError(f"{error}. {FOLDER_NEEDS}.") from None
            if "already been loaded" not in str(error):
                raise
        server.model = self.name(version)

    def drop(self, server: VllmServer, version: int) -> None:
        with suppress(ServerError):  # it takes memory there and nothing else; one started anew has forgotten it already
            server.unload_adapter(self.name(version))


class ReloadTransfer:
    """The whole model: the server pauses, reads its weights from the folder, empties its prefix cache and goes on."""

    def __init__(self, label: str) -> None:
        self.label = label

    def check(self, policy: Policy) -> None:
        if getattr(causal_lm(policy.model), "is_loaded_in_4bit", False):
            raise ConfigError("weight_transfer reload cannot write a base of four bits: use weight_transfer adapter")

    def write(self, policy: Policy, folder: Path, state: State) -> None:
        if causal_lm(policy.model) is policy.model:
            save(policy, folder, state_dict=state)
            return
        merged = copy.deepcopy(policy.model)
        for module in merged.modules():
            module.__dict__.pop("forward", None)  # a fused twin's, which would compute with the original's weights
        dtype = next(policy.model.parameters()).dtype
        save(Policy(merged.float().merge_and_unload().to(dtype), policy.tokenizer, policy.name), folder)

    def mark(self, version: int) -> str:
        """What is left at the server, where it takes it, to see whether another trainer has come since."""
        return f"{self.label}-v{version}"

    def load(self, server: VllmServer, version: int, folder: Path, *, timeout_s: float) -> None:
        try:
            server.reload(str(folder), timeout_s=timeout_s)
        except (NoSuchPath, NoSuchModel) as error:
            raise ServerError(f"{error}{_told(server)} To load weights again it needs more: {DEV_NEEDS}.") from None
        server.mark_weights(self.mark(version))

    def drop(self, server: VllmServer, version: int) -> None:
        """There is nothing left of it."""


def folder_of(transfer: Transfer, place: Path, version: int) -> Path:
    """Where the weights of a version are."""
    return place.resolve() / f"{transfer.label}-v{version:08d}"


def put(transfer: Transfer, policy: Policy, place: Path, version: int, state: State = None) -> None:
    """Write the weights of a version, whole or not at all, and forget all but the newest. Raises ModelError where they
    cannot be written."""
    final = folder_of(transfer, place, version)
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        transfer.write(policy, partial, state)
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"{final}: the weights for the sampling servers cannot be written ({error}); free some space, or name "
            "another weight_transfer_dir."
        ) from error
    for old in sorted(final.parent.glob(f"{transfer.label}-v*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _adapter(policy: Policy) -> Any:
    """The configuration of the adapter that is trained, if there is one."""
    configs = getattr(policy.model, "peft_config", None)
    return None if not configs else configs[policy.model.active_adapter]


def _told(server: VllmServer) -> str:
    name = server.name_of_version()
    return f" It is vLLM {name}." if name else ""


def _sync(folder: Path) -> None:
    """Every byte on the disk before another machine is told to read it."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
