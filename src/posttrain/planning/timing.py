"""Seconds of a step: products, memory traffic, operations started, and what travels between processes.

On a GPU operations are started ahead of the device, so the slower of the two counts; on a CPU they add up.
"""

from dataclasses import dataclass

from posttrain.planning.activations import attention_width, layer_bytes, padded, reduced_copies
from posttrain.planning.hardware import Device, Hardware
from posttrain.planning.job import Job, Micro
from posttrain.planning.memory import MASTER
from posttrain.planning.products import both_ways, forward

CALLS = 45  # operations of a layer, both ways; of a map with an adapter so many more
CALLS_ADAPTER = 10
CALLS_DECODE = 30  # of a layer and a token, attention over pages among them
OPTIMISER_BYTES = 36  # a number: AdamW reads and writes weight and moments and reads the gradient, clipping twice more
OFFLOADED = 25e9  # bytes a second of an optimiser in main memory, PCIe both ways
WIRE = 0.8  # share of a link that collectives reach
HOP_S = 5e-6  # one hop of a ring


@dataclass(frozen=True)
class Rates:
    """What multiplies each of `terms`: what is known of a machine beyond its data sheet. A calibration or a probe sets
    them. `fixed`: seconds that every step takes."""

    products: float = 1.0
    attention: float = 2.0
    activations: float = 5.0
    copies: float = 1.0
    four_bits: float = 5.0
    calls: float = 1.0
    optimiser: float = 1.0
    sampling: float = 1.0
    reading: float = 1.3
    fixed: float = 0.0


# Of a processor whose products and bandwidth were measured: benchmarks/plan.py, its calibration runs.
CPU = Rates()
GPU = Rates(attention=1.3)


@dataclass(frozen=True)
class Step:
    """Seconds of an optimiser step by what takes them, those of the slowest process. `hidden`: communication that runs
    while it computes. `bound`: what would have to be faster."""

    parts: dict[str, float]
    hidden: float
    bound: str
    operations: float
    communication: float
    compute: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def step_time(job: Job, hardware: Hardware, rates: Rates | None = None) -> Step:
    """One optimiser step; of reinforcement learning with its share of the iteration's sampling."""
    device = hardware.device
    rates = rates or (CPU if device.is_cpu else GPU)
    found = {name: getattr(rates, name) * seconds for name, seconds in terms(job, device).items()}
    parts = {
        "products": found["products"],
        "attention": found["attention"],
        "memory traffic": found["activations"] + found["copies"] + found["four_bits"],
        "operations started": found["calls"],
    }
    learning = sum(each.learns for each in job.beside)
    if learning:
        parts["value model"] = sum(parts.values()) * learning
    if not device.is_cpu:
        started = parts.pop("operations started")
        parts["waiting for the host"] = max(0.0, started - sum(parts.values()))
    compute = sum(parts.values())
    parts |= {"optimiser": found["optimiser"], "sampling": found["sampling"], "reading answers": found["reading"]}
    parts["other"] = rates.fixed
    sent = communication(job, hardware)
    # DDP's gradients travel while the last backward runs, FSDP's weights and gradients all the time.
    behind = compute if job.fsdp else compute / max(job.micros, 1) * 2 / 3
    parts["communication"] = max(0.0, sent - behind)
    parts = {name: seconds for name, seconds in parts.items() if seconds}
    operations = both_ways(job, job.mean).total * job.micros
    bound = max(parts, key=lambda name: parts[name])
    return Step(parts, min(sent, behind), bound, operations, sent, compute)


def terms(job: Job, device: Device) -> dict[str, float]:
    """Seconds of a step where every rate is 1, by the name of the rate."""
    shape, micros = job.shape, job.micros
    positions = padded(job.mean.positions, on_cpu=device.is_cpu)
    products, passes = both_ways(job, job.mean), forward(shape, job.mean, lora=job.lora, has_head=not job.is_reward)
    products += passes.times(job.forwards)
    again = 1 + job.forwards / 3
    peak = (device.bf16 if job.bf16 else device.fp32) * device.efficiency
    narrow = attention_width(job, job.mean, on_cpu=device.is_cpu) == 2
    filler = positions / max(job.mean.positions, 1)
    layers = (4 / 3 if job.checkpointing else 1.0) * again * micros
    kept = positions * shape.layers * layer_bytes(job, job.mean, on_cpu=device.is_cpu)
    is_packed = job.lora is not None and job.lora.bits is not None
    adapters = 0 if job.lora is None else len(job.lora.maps(shape))
    trained = (job.trained + sum(each.trained for each in job.beside)) * job.share
    sampling, reading = _sampling_s(job, device)
    return {
        "products": micros * (products.maps * filler + products.head) / peak,
        "attention": micros * products.attention / ((device.bf16 if narrow else device.fp32) * device.efficiency),
        "activations": layers * kept / device.bandwidth,
        "copies": layers * 3 * reduced_copies(job) / device.bandwidth,
        "four_bits": layers * 2 * is_packed * shape.layers * shape.layer_matrix / device.bandwidth,
        "calls": layers * shape.layers * (CALLS + CALLS_ADAPTER * adapters) * device.call_s,
        "optimiser": OPTIMISER_BYTES * trained / (OFFLOADED if job.cpu_offload else device.bandwidth),
        "sampling": sampling,
        "reading": reading,
    }


def communication(job: Job, hardware: Hardware) -> float:
    """Seconds that a step's collectives take on a ring (Rabenseifner, 2004): an all-gather or reduce-scatter moves
    (N - 1) / N of the bytes over every link, an all-reduce both. DDP: gradients once a step. FSDP: weights in every
    forward and, when they were dropped, backward; gradients in every backward."""
    count = job.processes
    if count == 1:
        return 0.0
    device, around = hardware.device, (count - 1) / count
    # Several rings leave a node at once, each by the network card of another device.
    wire = WIRE * (device.link if hardware.nodes == 1 else min(device.link, device.net * device.node))
    gradients = MASTER * job.trained
    hops = HOP_S * (count - 1)
    if not job.fsdp:
        return 2 * (around * gradients / wire + hops)
    gathers = (2 if job.reshard else 1) * job.micros
    weights = job.width * job.shape.parameters
    moved = gathers * weights + job.micros * gradients
    return around * moved / wire + hops * job.shape.layers * (gathers + job.micros)


def _sampling_s(job: Job, device: Device) -> tuple[float, float]:
    """Seconds of an iteration's sampling and of the passes over what was sampled, shared out over its steps. The
    processes share the prompts."""
    rolls, shape = job.rollouts, job.shape
    if rolls is None:
        return 0.0, 0.0
    answers = -(-rolls.answers // job.processes)
    running = min(rolls.slots, answers)
    tokens = answers * rolls.length
    read = Micro(rolls.prompts * rolls.prompt_length / job.processes, 0, 0, rolls.prompt_length)
    peak = (device.bf16 if rolls.bytes_a_number == 2 else device.fp32) * device.efficiency
    numbers = shape.layers * shape.layer_matrix + shape.embedding
    keys = running * (rolls.prompt_length / rolls.generations + rolls.length / 2)
    moved = rolls.bytes_a_number * (numbers + keys * 2 * shape.layers * shape.kv_heads * shape.head)
    token_s = max(2 * running * numbers / peak, moved / device.bandwidth)
    token_s += CALLS_DECODE * shape.layers * device.call_s
    steps = max(rolls.length, tokens / running)
    sampling = 0.0 if rolls.is_remote else steps * token_s + forward(shape, read).total / peak
    seen = Micro(rolls.prompts * rolls.prompt_length / job.processes + tokens, tokens, 0, rolls.length)
    reading = rolls.passes * forward(shape, seen).total
    reading /= (device.bf16 if job.bf16 else device.fp32) * device.efficiency
    return sampling / rolls.steps, reading / rolls.steps
