"""Value models: what an answer will still earn, read at the state before each of its tokens (Schulman et al., 2016).

Three makes. On a trunk of its own, begun from a reward model's weights (Stiennon et al., 2020) or the policy's; on the
policy's trunk, as one linear head; or as an adapter on the frozen base that a LoRA policy stands on. The last shares
tensors, not modules: every model is a tree of its own, so no adapter is ever switched on or off, gradient
checkpointing included.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.attention import install_attention
from posttrain.models.copies import base_of_adapter, copy_model
from posttrain.models.dropout import drop_nothing
from posttrain.models.fused import fuse
from posttrain.models.load import Policy, base_of, load_tokenizer, load_weights, quiet_peft, restore, save
from posttrain.models.logprobs import Entropy, causal_lm, head_of, head_stats, hidden_states
from posttrain.models.lora import add_lora, merge_lora
from posttrain.models.reward import load_reward
from posttrain.models.within import within
from posttrain.types import Batch

HEAD_FILE = "value_head.safetensors"


class ValueModel:
    """A sequence classifier with one label, whose number is read at every state and not at the last alone.

    It is saved as a plain Hugging Face (or peft) folder, which `load_reward` reads too.
    """

    is_shared = False
    """Whether it stands on the policy's own trunk, so that one forward serves both."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def values(self, batch: Batch) -> Tensor:
        """The value [N] (fp32) of the state before every trained token, in units of reward."""
        return token_values(self.policy.model, batch)

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of a module; with its frozen ones."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of a module."""
        yield from self.policy.model.named_parameters()

    def train(self, mode: bool = True) -> None:
        """As of a module: what gradient checkpointing and an adapter's dropout go by."""
        self.policy.model.train(mode)

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write its weights; `state_dict`: them, where they are not what the model holds here."""
        save(self.policy, folder, state_dict=state_dict)

    def restore(self, folder: Path) -> None:
        """Read what `save` of a value model of the same make has written."""
        restore(self.policy, folder)


class SharedValueModel(ValueModel):
    """A linear head on the hidden states of the policy, which its gradient reaches."""

    is_shared = True

    def __init__(self, policy: Policy, head: nn.Linear) -> None:
        super().__init__(policy)
        self.head = head

    def values(self, batch: Batch) -> Tensor:
        """The value [N] (fp32) of the state before every trained token."""
        model = self.policy.model
        return within(model, lambda: read_values(_sources(model, batch), self.head))

    def stats_and_values(
        self, model: nn.Module, batch: Batch, *, temperature: float = 1.0, entropy: Entropy = False
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """`token_stats` of the policy and `values`, from one forward."""
        return policy_and_values(model, self.head, batch, temperature=temperature, entropy=entropy)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the head; the trunk is the policy's."""
        yield from self.head.named_parameters()

    def train(self, mode: bool = True) -> None:
        """A linear map knows no modes, and the trunk's is the policy's business."""

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the head."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.head.state_dict() if state_dict is None else state_dict
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / HEAD_FILE)

    def restore(self, folder: Path) -> None:
        """Read what `save` has written. Raises ModelError where it is not there or of another width."""
        path = folder / HEAD_FILE
        try:
            self.head.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{path}: no head of a value model of this width can be read from it ({error})."
            ) from error


def token_values(model: Any, batch: Batch) -> Tensor:
    """The value [N] (fp32) that a classifier with one label gives to the state before every trained token: for the
    first token of an answer this is the end of its prompt."""
    return within(model, lambda: read_values(_sources(model, batch), causal_lm(model).score))


def policy_and_values(
    model: nn.Module, head: nn.Module, batch: Batch, *, temperature: float = 1.0, entropy: Entropy = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probability [N], entropy [N] where asked, and value [N] of every trained token, from one forward."""

    def found() -> tuple[Tensor, Tensor | None, Tensor]:
        hidden_ND = _sources(model, batch)
        stats = head_stats(hidden_ND, head_of(model), batch.target_ids_N, temperature=temperature, entropy=entropy)
        return *stats, read_values(hidden_ND, head)

    return within(model, found)


def read_values(hidden_ND: Tensor, head: nn.Module) -> Tensor:
    """The head's number [N] at each state, in fp32: in bf16 a value of 4 would move in steps of 0.03."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        value_N: Tensor = head(hidden_ND.float())[:, 0]
    return value_N


def _sources(model: nn.Module, batch: Batch) -> Tensor:
    return hidden_states(model, batch).index_select(0, batch.source_N)


def own_value(
    start: str | Path | Policy,
    *,
    lora: Mapping[str, Any] | None = None,
    seed: int = 0,
    attn: str = "auto",
    device: str | None = None,
    tokenizer: Any = None,
) -> ValueModel:
    """A value model on a trunk of its own, begun from the folder of a reward model with its head, or of a language
    model, or from a policy as it stands, with a new head.

    `lora`: the options of `add_lora`, where only an adapter and the head are to be trained. `tokenizer`: the policy's;
    raises ModelError where the folder's ids are others.
    """
    if isinstance(start, Policy):
        if causal_lm(start.model) is not start.model:
            raise ModelError(f"{start.name} is a LoRA policy: its value model is an adapter too; see adapter_value.")
        made = Policy(_classifier(start, copy_model(start.model), seed), start.tokenizer, start.name)
    else:
        made = load_reward(start, device=device, seed=seed)
        if tokenizer is not None:
            _require_vocabulary(str(start), made.tokenizer, tokenizer)
        if causal_lm(made.model) is not made.model:
            made = merge_lora(made)
    made.model.requires_grad_(True)
    drop_nothing(made.model)  # values before a step are compared with those after it
    return _ready(made if lora is None else add_lora(made, **lora), attn)


def adapter_value(
    policy: Policy,
    *,
    reward: str | Path | None = None,
    lora: Mapping[str, Any] | None = None,
    seed: int = 0,
    attn: str = "auto",
) -> ValueModel:
    """A value model of an adapter and a head on the base of a LoRA policy, whose weights it shares. It begins as the
    base under a new head, with the options of `add_lora` in `lora`; or as the reward adapter in the folder `reward`.

    Raises ModelError where the policy has no adapter or the reward adapter is of another base.
    """
    made = _on_base(policy, seed)
    if reward is not None:
        return _ready(_adapted(made, Path(reward), is_trainable=True), attn)
    return _ready(add_lora(made, **(lora or {})), attn)


def adapter_reward(policy: Policy, folder: str | Path, *, attn: str = "auto") -> Policy:
    """The reward model of an adapter folder on the base of a LoRA policy, whose weights it shares; frozen.

    Raises ModelError where the policy has no adapter or the reward adapter is of another base.
    """
    made = _ready(_adapted(_on_base(policy, 0), Path(folder), is_trainable=False), attn).policy
    made.model.requires_grad_(False)
    return made


def shared_value(policy: Policy, *, seed: int = 0) -> SharedValueModel:
    """A value model on the policy's own trunk: one new linear head."""
    return SharedValueModel(policy, _drawn_head(head_of(policy.model).weight_VD.shape[1], seed).to(policy.device))


def _ready(made: Policy, attn: str) -> ValueModel:
    install_attention(made.model, attn)
    fuse(made.model)
    made.model.eval()
    return ValueModel(made)


def _on_base(policy: Policy, seed: int) -> Policy:
    if causal_lm(policy.model) is policy.model:
        raise ModelError(
            f"{policy.name} is trained whole, so nothing can stand on its weights beside it; train it with LoRA, or "
            "give the value or reward model a trunk of its own."
        )
    made = _classifier(policy, base_of_adapter(policy.model), seed)
    drop_nothing(made)
    return Policy(made, policy.tokenizer, policy.name)


def _classifier(policy: Policy, lm: Any, seed: int) -> Any:
    """A sequence classifier with one label around the trunk of a language model, with a new head."""
    from transformers import AutoModelForSequenceClassification

    config = deepcopy(lm.config)
    config.num_labels = 1
    with torch.device("meta"):
        try:
            made: Any = AutoModelForSequenceClassification.from_config(config)
        except ValueError as error:
            raise ModelError(f"{policy.name}: its family has no sequence classifier: {error}") from error
    if not isinstance(getattr(made, "score", None), nn.Linear):
        raise ModelError(f"{policy.name}: {type(made).__name__} has no linear head `score`; use a shared value head.")
    setattr(made, made.base_model_prefix, lm.base_model)
    made.score = _drawn_head(made.score.in_features, seed).to(policy.device)
    return made.eval()


def _drawn_head(width: int, seed: int) -> nn.Linear:
    """From N(0, 1 / (D + 1)) (Stiennon et al., 2020, appendix B)."""
    head = nn.Linear(width, 1, bias=False)
    drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    head.weight = nn.Parameter(drawn / (width + 1) ** 0.5)
    return head


def _adapted(made: Policy, folder: Path, *, is_trainable: bool) -> Policy:
    """The classifier with the adapter and the head of a reward model's folder."""
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: no adapter_config.json; a whole reward model has a trunk of its own.")
    _require_vocabulary(str(folder), load_tokenizer(folder), made.tokenizer)
    _require_base(made, folder)
    with quiet_peft():
        model = PeftModel.from_pretrained(made.model, str(folder), is_trainable=is_trainable)
    return Policy(model, made.tokenizer, str(folder))


def _require_vocabulary(name: str, theirs: Any, ours: Any) -> None:
    """A value model reads the ids that the policy sampled."""
    if theirs.get_vocab() != ours.get_vocab():
        raise ModelError(
            f"{name}: its tokenizer ({len(theirs)} tokens) is not the policy's ({len(ours)} tokens), whose ids it "
            "would read; train it from the policy's own model, or begin the value model from the policy."
        )


def _require_base(made: Policy, folder: Path) -> None:
    """An adapter on another base than it was trained on gives numbers, and they mean nothing."""
    base, name = base_of(folder), str(made.model.config._name_or_path)
    if base == name or (Path(base).is_dir() and Path(name).is_dir() and Path(base).resolve() == Path(name).resolve()):
        return
    weights = made.model.base_model.state_dict()
    other = load_weights(base, torch.float32).base_model.state_dict()
    for key, value in other.items():
        mine = weights.get(key, value[:0]).reshape(-1).cpu().float()
        # An embedding may have grown by the rows of new tokens.
        if not torch.equal(mine[: value.numel()], value.reshape(-1)):
            raise ModelError(
                f"{folder}: its adapter was trained on {base}, whose {key} is not that of {name}; load it on its own, "
                "or give an adapter of the same base."
            )
