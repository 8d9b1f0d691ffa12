"""Memory of one process, part by part, at each moment that may be its fullest.

A run is fullest where the head makes its logits, where the last layer's backward begins, where all gradients are there,
or where answers are sampled. `memory` gives the parts of that moment.
"""

from dataclasses import dataclass

from posttrain.planning.activations import fleeting, kept, layer_bytes, padded, reduced_copies, working
from posttrain.planning.hardware import Device
from posttrain.planning.job import CHUNK_ELEMENTS, Beside, Job

MASTER = 4  # bytes of a weight, a gradient, and each of AdamW's two moments
EIGHT_BITS = 2 + 2 * 4 / 256  # of both moments in eight bits, with a scale for each block
FEWEST_PACKED = 4096  # of models/bitsandbytes.py: tensors with fewer numbers keep theirs in 32 bits
PAGE, PAGES_AHEAD = (
    64,
    1.25,
)  # of models/decoding_pages.py: pages of keys and values, taken half as many again at a time


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the fullest moment; `host`: what is kept in main memory instead."""

    moment: str
    parts: dict[str, float]
    host: dict[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())


KINDS = {"layer at work": "working", "head": "logits", "logits": "logits", "gradients": "gradients"}
HOLES = "holes of the allocator"
KINDS[HOLES] = "holes"


@dataclass(frozen=True)
class Loose:
    """What a process holds beyond the tensors that are in use. `libraries`: bytes of what is loaded once training
    begins, `adapters`: where there is one, `four_bits`: where the base is in four bits. Factors: of what is kept for
    the backward, of the layer at work, of logits, and of what comes and goes between them (`holes`). `reuses`: whether
    what one moment frees serves the next."""

    libraries: float = 0.0
    adapters: float = 0.0
    four_bits: float = 0.0
    kept: float = 1.0
    working: float = 1.0
    logits: float = 1.0
    holes: float = 0.0
    reuses: bool = True

    def of(self, name: str) -> float:
        """The factor of a part."""
        return float(getattr(self, KINDS.get(name, "kept"), 1.0))  # gradients are large blocks that find their places


# CUDA's caching allocator rounds blocks up and keeps a few; PyTorch calls the difference reserved over allocated.
GPU = Loose(kept=1.05, working=1.05, logits=1.05)
# glibc's malloc cannot put an aligned block into the hole that one of its size has left, so what comes and goes between
# tensors that stay costs as much again. Fitted by benchmarks/plan.py on its calibration runs.
GLIBC = Loose(62e6, 100e6, 0.0, kept=0.85, working=1.8, logits=1.7, holes=0.83, reuses=False)


def memory(job: Job, device: Device, *, loose: Loose | None = None) -> Memory:
    """The fullest moment of a process."""
    loose = loose or (GLIBC if device.is_cpu else GPU)
    found = _training(job, device, loose)
    if not any(each.leaves for each in job.beside):
        return found
    return max(found, _asking(job, device, loose), key=lambda each: each.total)


def _asking(job: Job, device: Device, loose: Loose) -> Memory:
    """Before the first step: another model is asked about the data, beside the policy that has no moments yet."""
    parts = {"weights": weight_bytes(job) * job.share}
    parts |= {each.name: each.held for each in job.beside if each.leaves}
    _, logits = _head(job, on_cpu=device.is_cpu)
    parts |= {"layer at work": loose.working * _layer(job, device), "logits": loose.logits * logits}
    parts["libraries"] = loose.libraries + device.reserve
    host = {}
    if job.cpu_offload:
        host = {"weights": parts.pop("weights")}
    return Memory("asking the reference", {name: size for name, size in parts.items() if size}, host)


def _layer(job: Job, device: Device) -> float:
    """What one layer keeps of the fullest micro-batch."""
    return padded(job.most.positions, on_cpu=device.is_cpu) * layer_bytes(job, job.most, on_cpu=device.is_cpu)


def _training(job: Job, device: Device, loose: Loose) -> Memory:
    always, host = _always(job)
    moments = _moments(job, device)
    if not loose.reuses:
        holes = {HOLES: fleeting(job, job.most, on_cpu=device.is_cpu)}
        moments["backward"] = moments.pop("logits") | moments["backward"] | holes
    if job.rollouts is not None and not job.rollouts.is_remote:
        moments["sampling"] = _sampling(job)
    held = {at: {name: loose.of(name) * size for name, size in parts.items()} for at, parts in moments.items()}
    if job.activation_offloading:
        there = [passing for passing in held.values() if "activations" in passing]
        host = host | {"activations": max(passing["activations"] for passing in there)}
        for passing in there:
            passing["activations"] = min(passing["activations"], 2 * _layer(job, device))
    best, passing = max(held.items(), key=lambda item: sum(item[1].values()))
    parts = always | passing
    adapted = 0.0 if job.lora is None else loose.adapters + (loose.four_bits if job.lora.bits else 0.0)
    parts["libraries"] = loose.libraries + adapted + device.reserve
    return Memory(best, {name: size for name, size in parts.items() if size}, host)


def always_bytes(job: Job) -> float:
    """Weights and moments of all models of a process."""
    return sum(_always(job)[0].values())


def passing_bytes(job: Job, device: Device) -> dict[str, float]:
    """What comes and goes in a step, by the factor of `Loose` that it has; for an allocator that does not reuse."""
    moments = _moments(job, device)
    parts = moments["logits"] | moments["backward"]
    if sum(moments["optimiser"].values()) > sum(parts.values()):
        parts = moments["optimiser"]
        parts = parts | {HOLES: 0.0}
    else:
        parts = parts | {HOLES: fleeting(job, job.most, on_cpu=device.is_cpu)}
    found = dict.fromkeys(KINDS.values(), 0.0) | {"kept": 0.0}
    for name, size in parts.items():
        found[KINDS.get(name, "kept")] += size
    return found


def _always(job: Job) -> tuple[dict[str, float], dict[str, float]]:
    """What is there from the first step to the last, and what of it is in main memory."""
    moments = moment_bytes(job)
    parts = {"weights": weight_bytes(job) * job.share, "moments": moments * job.share}
    if job.processes > 1 and not job.fsdp:
        parts["gradients on their way"] = MASTER * job.trained  # DDP's buckets, beside the gradients themselves
    own: dict[str, float] = {}  # what is whole in every process, whatever becomes of the others
    for each in job.beside:
        if each.leaves:
            continue
        held = each.held + each.trained * moments / max(job.trained, 1)
        (parts if each.is_shared else own)[each.name] = held * (job.share if each.is_shared else 1.0)
    if job.cpu_offload:
        return own, parts | {"gradients": MASTER * job.trained * job.share}
    if job.optim.startswith("paged"):
        host = {"moments": parts.pop("moments")}
        return parts | own, host
    return parts | own, {}


def moment_bytes(job: Job) -> float:
    """Of the policy's moments, all shares together. In eight bits are the matrices of its layers, or of the adapter,
    and a head that is no embedding; small ones are not."""
    if "8bit" not in job.optim:
        return 2 * MASTER * job.trained
    shape = job.shape
    sizes = [each.weights for each in shape.maps]
    if job.lora is not None:
        sizes = [job.lora.rank * size for each in job.lora.maps(shape) for size in (each.size_in, each.size_out)]
    packed = shape.layers * sum(size for size in sizes if size >= FEWEST_PACKED)
    packed += shape.embedding * (job.has_trained_head and not shape.tied)
    return EIGHT_BITS * packed + 2 * MASTER * (job.trained - packed)


def weight_bytes(job: Job) -> float:
    """Of the whole policy with its adapter: fp32, but for what is in four bits."""
    if job.lora is None:
        return MASTER * job.base
    adapter = MASTER * job.trained
    if job.lora.bits is None:
        return MASTER * job.base + adapter
    packed = job.shape.layers * job.shape.layer_matrix
    return packed * job.lora.bits / 8 + MASTER * (job.base - packed) + adapter


def _moments(job: Job, device: Device) -> dict[str, dict[str, float]]:
    on_cpu = device.is_cpu
    gradients = 0.0 if job.cpu_offload else MASTER * (job.trained + _beside_trained(job)) * job.share
    waiting = gradients if job.micros > 1 else 0.0
    before = {"activations": kept(job, job.most, on_cpu=on_cpu), "reduced copies": _copies(job)}
    for each in job.beside:
        if each.learns:
            before[f"activations of the {each.name}"] = before["activations"]
    head, logits = _head(job, on_cpu=on_cpu)
    whole = {"gathered layers": _gathered(job)}
    end = {"gradients": gradients, "logits": MASTER * job.shape.embedding * (job.has_trained_head and job.shape.tied)}
    if job.checkpointing:
        end["layer at work"] = working(job, job.most, on_cpu=on_cpu)
    return {
        "logits": before | whole | {"head": head, "logits": logits, "gradients": waiting},
        "backward": before
        | whole
        | {
            "head": head,
            "layer at work": working(job, job.most, on_cpu=on_cpu),
            "gradients": max(waiting, _layer_gradient(job)),
        },
        "optimiser": end | whole,
    }


def _layer_gradient(job: Job) -> float:
    """Of the layer whose backward runs, whole in every process until it is shared out."""
    return MASTER * (job.shape.layer if job.lora is None else job.trained / job.shape.layers)


def _beside_trained(job: Job) -> float:
    return sum(each.trained for each in job.beside)


def _copies(job: Job) -> float:
    """bf16 copies that are kept until the backward; checkpointing keeps those of trained weights to the forward's end
    (autocast's cache) and of frozen ones none."""
    found = reduced_copies(job)
    return found / job.shape.layers if job.checkpointing and job.lora is not None else found


def _gathered(job: Job) -> float:
    """FSDP: a layer whole in the compute dtype while it works, and the next that is on its way; else all of them."""
    if not job.fsdp:
        return 0.0
    layers = 2 if job.reshard else job.shape.layers
    outside = job.shape.parameters - job.shape.layers * job.shape.layer
    return job.width * (layers * job.shape.layer + outside)


def _head(job: Job, *, on_cpu: bool) -> tuple[float, float]:
    """Bytes of what the head keeps for the backward, and of what it works with: its chunk of logits."""
    shape, c = job.shape, job.width
    if job.is_reward:
        return 0.0, 0.0
    trained = padded(job.most.trained, on_cpu=on_cpu)
    rows = min(max(16, CHUNK_ELEMENTS // shape.vocab), trained)
    chunk = rows * shape.vocab * (8 + 4 * job.has_entropy + (4 if job.bf16 else 0))
    matrix = shape.embedding
    keeps = trained * shape.width * 2 * c + MASTER * matrix * job.has_trained_head
    works = chunk + (2 * matrix if job.bf16 else 0) + (c * matrix if job.has_trained_head else 0)
    return keeps, works


def _sampling(job: Job) -> dict[str, float]:
    """A copy of the weights to sample from, keys and values in pages, and a row of logits an answer."""
    rolls, shape = job.rollouts, job.shape
    assert rolls is not None
    running = min(rolls.slots, rolls.answers)
    together = -(-running // rolls.generations)
    pages = running * -(-rolls.longest // PAGE) + together * -(-rolls.prompt_length // PAGE)
    cache = pages * PAGE * PAGES_AHEAD * 2 * shape.layers * shape.kv_heads * shape.head * rolls.bytes_a_number
    return {
        "sampler's weights": float(rolls.bytes_a_number * shape.parameters),
        "keys and values": cache,
        "logits": running * shape.vocab * 4.0 * 4,
    }


def standing(name: str, job: Job, *, learns: bool, trained: float | None = None, adapter: bool = False) -> Beside:
    """A second model of the policy's shape: a frozen copy, or one that is trained whole or as an adapter on the same
    base."""
    numbers = job.shape.trunk + job.shape.width if learns else job.base
    count = (numbers if trained is None else trained) if learns else 0.0
    return Beside(name, job.shape, MASTER * (count if adapter else numbers), count, learns)
