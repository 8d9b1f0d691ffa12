"""Operations of one micro-batch: two for each number that a matrix product multiplies and adds."""

from dataclasses import dataclass

from posttrain.planning.job import Job, Lora, Micro
from posttrain.planning.shapes import Shape


@dataclass(frozen=True)
class Products:
    """Operations by where they are done: in the maps of the layers, in attention, at the head."""

    maps: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.maps + self.attention + self.head

    def __add__(self, other: "Products") -> "Products":
        return Products(self.maps + other.maps, self.attention + other.attention, self.head + other.head)

    def times(self, factor: float) -> "Products":
        """So many of them."""
        return Products(self.maps * factor, self.attention * factor, self.head * factor)


def forward(shape: Shape, micro: Micro, *, lora: Lora | None = None, has_head: bool = True) -> Products:
    """A pass without a gradient."""
    maps = 2 * micro.positions * shape.layers * shape.layer_matrix
    if lora is not None:
        maps += 2 * micro.positions * lora.parameters(shape)
    attention = 4 * micro.pairs * shape.attended * shape.layers
    return Products(maps, attention, 2 * micro.trained * shape.embedding * has_head)


def backward(job: Job, micro: Micro) -> Products:
    """The backward of a pass: gradients of the inputs, and of the weights where they are trained. Attention makes its
    scores again (five products for the forward's two: Dao, 2023)."""
    there = forward(job.shape, micro, has_head=False)
    adapter = 0.0 if job.lora is None else 2 * micro.positions * job.lora.parameters(job.shape)
    weights = there.maps if job.lora is None else adapter
    return Products(there.maps + adapter + weights, 2.5 * there.attention, 0.0)


def head(job: Job, micro: Micro) -> float:
    """Operations at the head, both ways: logits and slope in the forward; for the gradient of its matrix one more
    product where the loss is linear in log-probabilities, else the logits again too."""
    if job.is_reward:
        return 0.0
    products = 2 + (0 if not job.has_trained_head else 1 if job.is_hinted else 2)
    return 2 * micro.trained * job.shape.embedding * products


def both_ways(job: Job, micro: Micro) -> Products:
    """Forward and backward; with checkpointing the layers' forward twice."""
    there = forward(job.shape, micro, lora=job.lora, has_head=False)
    found = there.times(2 if job.checkpointing else 1) + backward(job, micro)
    return found + Products(0.0, 0.0, head(job, micro))


def model_operations(job: Job, micro: Micro) -> float:
    """What MFU counts: the products of a full pass both ways, none of them twice (Chowdhery et al., 2022, app. B)."""
    there = forward(job.shape, micro)
    return 3 * there.total
