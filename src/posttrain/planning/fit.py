"""Whether a run fits, and what would make it: the changes that a recipe can make, the least harmful first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from posttrain.planning.hardware import GIB, Hardware
from posttrain.planning.job import NF4_BITS, Beside, Job, Lora, Rollouts
from posttrain.planning.memory import Memory, memory

Estimate = Callable[[Job, Hardware], Memory]
LARGEST = 4096  # processes that are tried


@dataclass(frozen=True)
class Knob:
    """A change: the keys to set, what it costs, and the run with it."""

    keys: str
    costs: str
    job: Job
    hardware: Hardware


@dataclass(frozen=True)
class Tried:
    """A knob turned alone: the bytes of a process, and whether that fits."""

    keys: str
    costs: str
    total: float
    fits: bool


@dataclass(frozen=True)
class Fit:
    """Whether the run fits as it is; each knob alone; and the fewest of them, in their order, that together make it
    fit: None where nothing does."""

    fits: bool
    alone: tuple[Tried, ...]
    together: tuple[str, ...] | None
    job: Job
    hardware: Hardware


def fits(found: Memory, hardware: Hardware) -> bool:
    """On the device, and what is beside it in main memory."""
    spare = hardware.host is None or sum(found.host.values()) <= hardware.host
    return found.total <= hardware.device.memory and spare


def search(job: Job, hardware: Hardware, estimate: Estimate | None = None) -> Fit:
    """Try every knob alone, then pile them up in their order until the run fits."""
    estimate = estimate or (lambda job, hardware: memory(job, hardware.device))
    if fits(estimate(job, hardware), hardware):
        return Fit(True, (), (), job, hardware)
    alone, single = [], None
    for knob in knobs(job, hardware):
        found = estimate(knob.job, knob.hardware)
        is_enough = fits(found, knob.hardware)
        beside = sum(found.host.values()) / GIB
        costs = f"{knob.costs}; {beside:,.0f} GiB of main memory a device" if beside else knob.costs
        alone.append(Tried(knob.keys, costs, found.total, is_enough))
        if is_enough and single is None:
            single = knob
    if single is not None:
        return Fit(False, tuple(alone), (single.keys,), single.job, single.hardware)
    return _piled(job, hardware, estimate, tuple(alone))


def _piled(job: Job, hardware: Hardware, estimate: Estimate, alone: tuple[Tried, ...]) -> Fit:
    turned: list[str] = []
    for number in range(len(KNOBS)):
        knob = KNOBS[number](job, hardware)
        if knob is None or estimate(knob.job, knob.hardware).total >= estimate(job, hardware).total:
            continue
        job, hardware = knob.job, knob.hardware
        turned.append(knob.keys)
        if fits(estimate(job, hardware), hardware):
            return Fit(False, alone, tuple(turned), job, hardware)
    return Fit(False, alone, None, job, hardware)


def knobs(job: Job, hardware: Hardware) -> Iterator[Knob]:
    """Those that this run can turn, the least harmful first."""
    for make in KNOBS:
        found = make(job, hardware)
        if found is not None:
            yield found


def _smaller(job: Job, hardware: Hardware) -> Knob | None:
    if job.rows <= 1:
        return None
    part, times = job.most.scaled(1 / job.rows), job.rows
    if job.rollouts is not None:
        keys, costs = f"micro_batch_tokens {int(-(-part.positions // 64) * 64)}", "a little time"
    else:
        keys = f"per_device_train_batch_size 1, gradient_accumulation_steps x{times}"
        costs = "a little time; the step stays the same"
    made = replace(job, most=part, mean=job.mean.scaled(1 / job.rows), micros=job.micros * times, rows=1)
    return Knob(keys, costs, made, hardware)


def _fewer_slots(job: Job, hardware: Hardware) -> Knob | None:
    rolls = job.rollouts
    if rolls is None or rolls.is_remote or rolls.slots <= 8:
        return None
    made: Rollouts = replace(rolls, slots=8)
    return Knob("sampler_slots 8", "slower sampling", replace(job, rollouts=made), hardware)


def _checkpointing(job: Job, hardware: Hardware) -> Knob | None:
    if job.checkpointing:
        return None
    return Knob("gradient_checkpointing true", "a third more time", replace(job, checkpointing=True), hardware)


def _fsdp(job: Job, hardware: Hardware) -> Knob | None:
    if job.fsdp or job.processes == 1 or (job.lora and job.lora.bits):
        return None
    return Knob("strategy fsdp", "communication in every layer", replace(job, fsdp=True), hardware)


def _offload_activations(job: Job, hardware: Hardware) -> Knob | None:
    if job.activation_offloading or hardware.device.is_cpu:
        return None
    made = replace(job, activation_offloading=True)
    return Knob("activation_offloading true", "time to and from main memory", made, hardware)


def _offload_weights(job: Job, hardware: Hardware) -> Knob | None:
    if job.cpu_offload or hardware.device.is_cpu or job.processes == 1 or (job.lora and job.lora.bits):
        return None
    made = replace(job, fsdp=True, cpu_offload=True)
    return Knob("strategy fsdp, cpu_offload true", "much time to and from main memory", made, hardware)


def _lora(job: Job, hardware: Hardware) -> Knob | None:
    if job.lora is not None:
        return None
    adapter = Lora()
    kept = tuple(_as_adapter(each, adapter) for each in job.beside if each.name != "reference")
    return Knob(
        "use_peft true", "trains an adapter, not the weights", replace(job, lora=adapter, beside=kept), hardware
    )


def _as_adapter(each: Beside, adapter: Lora) -> Beside:
    if not each.learns:
        return each
    count = adapter.parameters(each.shape) + each.shape.width
    return replace(each, held=4.0 * count, trained=count)


def _four_bits(job: Job, hardware: Hardware) -> Knob | None:
    if job.lora is not None and job.lora.bits is not None:
        return None
    start = _lora(job, hardware)
    made = job if start is None else start.job
    lora = replace(made.lora or Lora(), bits=NF4_BITS)
    keys = "load_in_4bit true" if start is None else "use_peft true, load_in_4bit true"
    whole = replace(made, lora=lora, fsdp=False, cpu_offload=False)
    return Knob(keys, "trains an adapter on a base in four bits", whole, hardware)


def _shorter(job: Job, hardware: Hardware) -> Knob | None:
    if job.most.span < 256 or job.rollouts is not None:
        return None
    made = replace(job, most=job.most.scaled(1, 0.5), mean=job.mean.scaled(1, 0.5))
    return Knob("max_length halved", "longer samples are cut", made, hardware)


def _more(job: Job, hardware: Hardware) -> Knob | None:
    """The fewest processes that are enough, each with a share of the weights."""
    if job.lora is not None and job.lora.bits is not None:
        return None
    count = 2 * job.processes
    while count <= LARGEST:
        made = replace(job, processes=count, fsdp=True)
        there = replace(hardware, count=count)
        if fits(memory(made, there.device), there):
            costs = f"{count // job.processes}x the devices"
            if job.rollouts is None:  # each process brings its own; rollouts are shared out
                costs += ", and as many times the rows of a step"
            return Knob(f"{count} devices, strategy fsdp", costs, made, there)
        count *= 2
    return None


KNOBS: tuple[Callable[[Job, Hardware], Knob | None], ...] = (
    _smaller,
    _fewer_slots,
    _checkpointing,
    _fsdp,
    _offload_activations,
    _offload_weights,
    _lora,
    _four_bits,
    _more,
    _shorter,
)
