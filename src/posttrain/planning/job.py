"""What is to be planned, in numbers: who is trained and how, on what batches, beside which other models."""

from dataclasses import dataclass

from posttrain.planning.shapes import Map, Shape

ROW_MULTIPLE = 64  # of models/logprobs.py: CPU rows are filled up to it
SHORT_SPAN = 224  # of models/attention.py: on CPU, shorter spans attend in fp32
CHUNK_ELEMENTS = 4 * 1024 * 1024  # of models/logprobs.py: logits that exist at a time
NF4_BITS = 4.127  # a weight in blocks of 64 with double quantisation (Dettmers et al., 2023, section 3)
PLAIN4_BITS = 4.5  # the scales in fp32


@dataclass(frozen=True)
class Micro:
    """One forward and backward: `positions` that pass the model, `trained` that pass the head, `pairs` of a query and
    a key, `span` the length of the usual piece that attends to itself, `answers` that are scored."""

    positions: float
    trained: float
    pairs: float
    span: float
    answers: float = 0.0

    @staticmethod
    def rows(length: int, rows: int = 1, *, trained: float = 1.0) -> "Micro":
        """So many full rows of one span each."""
        return Micro(length * rows, trained * length * rows, rows * length * (length + 1) / 2, length)

    def scaled(self, rows: float, length: float = 1.0) -> "Micro":
        """With so many times the rows, each so many times as long, spans with it."""
        positions = self.positions * rows * length
        trained, pairs = self.trained * rows * length, self.pairs * rows * length**2
        return Micro(positions, trained, pairs, self.span * length, self.answers * rows * length)


@dataclass(frozen=True)
class Lora:
    """An adapter: its rank, the maps that have one ("all-linear": all), and what the base is held in."""

    rank: int = 16
    targets: tuple[str, ...] = ()
    bits: float | None = None
    is_dora: bool = False

    def maps(self, shape: Shape) -> tuple[Map, ...]:
        """Those of a layer that have an adapter."""
        return tuple(each for each in shape.maps if not self.targets or each.name in self.targets)

    def parameters(self, shape: Shape) -> int:
        """Trained numbers."""
        each = sum(self.rank * (m.size_in + m.size_out) + (m.size_out if self.is_dora else 0) for m in self.maps(shape))
        return shape.layers * each


@dataclass(frozen=True)
class Rollouts:
    """One iteration of reinforcement learning. `length`: of an answer, `longest`: what it may have at most.
    `steps`: optimiser steps on what was sampled; `passes`: models that read it before the first; `is_remote`: whether
    servers sample, whose memory and time are not planned."""

    prompts: int
    generations: int
    prompt_length: float
    length: float
    longest: int
    slots: int
    bytes_a_number: int
    steps: int = 1
    passes: int = 0
    is_remote: bool = False

    @property
    def answers(self) -> int:
        """All of an iteration."""
        return self.prompts * self.generations


@dataclass(frozen=True)
class Beside:
    """A model that stands beside the policy. `trained`: numbers with a gradient; `held`: bytes of its weights;
    `learns`: whether it has a forward and backward of its own; `is_shared`: whether FSDP shares it out too; `leaves`:
    whether it is asked before the first step and gone then."""

    name: str
    shape: Shape
    held: float
    trained: float = 0.0
    learns: bool = False
    is_shared: bool = True
    leaves: bool = False


@dataclass(frozen=True)
class Job:
    """A run. `most`, `mean`: the largest micro-batch and the usual one; `micros`: of them in a step and process."""

    stage: str
    shape: Shape
    most: Micro
    mean: Micro
    micros: float
    lora: Lora | None = None
    bf16: bool = True
    checkpointing: bool = False
    processes: int = 1
    fsdp: bool = False
    reshard: bool = True
    cpu_offload: bool = False
    activation_offloading: bool = False
    is_reward: bool = False
    is_hinted: bool = False
    has_entropy: bool = False
    forwards: float = 0.0
    """Further passes of the policy without a gradient, in each step."""
    before: float = 0.0
    """Positions that pass the reference before the first step."""
    beside: tuple[Beside, ...] = ()
    rollouts: Rollouts | None = None
    steps: int | None = None
    checkpoints: int = 1
    kept: int = 2
    rows: int = 1
    """Rows of a micro-batch, or as many parts as it can be cut into."""
    accumulated: int = 1
    """Micro-batches of a step, as the recipe says it."""
    max_length: int = 0
    """Positions of a row at most; 0 where the recipe does not say."""
    optim: str = "adamw_torch_fused"

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.bf16 else 4

    @property
    def trained(self) -> float:
        """Numbers of the policy that have a gradient."""
        head = self.shape.width if self.is_reward else 0
        if self.lora is not None:
            return self.lora.parameters(self.shape) + head
        return (self.shape.trunk if self.is_reward else self.shape.parameters) + head

    @property
    def base(self) -> float:
        """Numbers of the model without an adapter."""
        return self.shape.trunk + self.shape.width if self.is_reward else self.shape.parameters

    @property
    def has_trained_head(self) -> bool:
        """Whether the head's matrix has a gradient."""
        return self.lora is None and not self.is_reward

    @property
    def share(self) -> float:
        """Of weights, gradients and moments that one process holds."""
        return 1 / self.processes if self.fsdp else 1.0
