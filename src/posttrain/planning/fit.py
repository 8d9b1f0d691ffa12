"""Whether a run fits, and what would make it: the changes that a recipe can make, the least harmful first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from posttrain.planning.hardware import GIB, Hardware
from posttrain.planning.job import NF4_BITS, Beside, Job, Lora, Rollouts
from posttrain.planning.memory import Memory, memory

Estimate = Callable[[Job, Hardware], Memory]
Keys = dict[str, Any]
Accepts = Callable[[Mapping[str, Any]], bool]
"""Whether the recipe may have these keys."""
LARGEST = 4096  # processes that are tried


@dataclass(frozen=True)
class Knob:
    """A change: the keys to set, what it costs, and the run with it. `is_more`: whether it takes more devices."""

    keys: Keys
    costs: str
    job: Job
    hardware: Hardware
    is_more: bool = False

    def said(self, keys: Keys | None = None) -> str:
        """As it is told, or what of it is left."""
        parts = [f"{key} {_text(value)}" for key, value in (self.keys if keys is None else keys).items()]
        return ", ".join([f"{self.hardware.count} devices", *parts] if self.is_more else parts)


Maker = Callable[[Job, Hardware], Knob | None]


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
    fit: None where nothing does. `keys`: what those set in the recipe."""

    fits: bool
    alone: tuple[Tried, ...]
    together: tuple[str, ...] | None
    job: Job
    hardware: Hardware
    keys: Keys


def fits(found: Memory, hardware: Hardware) -> bool:
    """On the device, and what is beside it in main memory."""
    return found.total <= hardware.device.memory and _has_room(found, hardware)


def _has_room(found: Memory, hardware: Hardware) -> bool:
    return hardware.host is None or sum(found.host.values()) <= hardware.host


def search(job: Job, hardware: Hardware, estimate: Estimate | None = None, *, accepts: Accepts = lambda _: True) -> Fit:
    """Try every knob that the recipe accepts alone, then pile them up in their order until the run fits."""
    estimate = estimate or _usual
    if fits(estimate(job, hardware), hardware):
        return Fit(True, (), (), job, hardware, {})
    alone, single = [], None
    for knob in knobs(job, hardware, estimate):
        if not accepts(knob.keys):
            continue
        found = estimate(knob.job, knob.hardware)
        is_enough = fits(found, knob.hardware)
        beside = sum(found.host.values()) / GIB
        costs = f"{knob.costs}; {beside:,.0f} GiB of main memory a device" if beside else knob.costs
        alone.append(Tried(knob.said(), costs, found.total, is_enough))
        if is_enough and single is None:
            single = knob
    if single is not None:
        return Fit(False, tuple(alone), (single.said(),), single.job, single.hardware, single.keys)
    pile = _piled(_Pile(job, hardware), accepts, estimate)
    if pile is None:
        return Fit(False, tuple(alone), None, job, hardware, {})
    return Fit(False, tuple(alone), _told(pile.turned), pile.job, pile.hardware, pile.keys)


@dataclass(frozen=True)
class _Pile:
    """Knobs turned one after the other, and the run with all of them."""

    job: Job
    hardware: Hardware
    turned: tuple[Knob, ...] = ()

    @property
    def keys(self) -> Keys:
        """What they set, the last of them last."""
        return {key: value for knob in self.turned for key, value in knob.keys.items()}


def _piled(start: _Pile, accepts: Accepts, estimate: Estimate) -> _Pile | None:
    """As few of the first knobs as make it fit, with weights that are shared out or with weights in four bits."""

    def turn(makers: Sequence[Maker]) -> _Pile:
        pile = start
        for make in makers:
            knob = make(pile.job, pile.hardware)
            if knob is None or not accepts(pile.keys | knob.keys):
                continue
            if _has_room(estimate(knob.job, knob.hardware), knob.hardware):
                pile = _Pile(knob.job, knob.hardware, (*pile.turned, knob))
        return pile

    def is_enough(makers: Sequence[Maker]) -> bool:
        pile = turn(makers)
        return fits(estimate(pile.job, pile.hardware), pile.hardware)

    makers = _makers(estimate)
    ways = [[m for m in makers[:count] if m not in out] for count in range(1, len(makers) + 1) for out in APART]
    used = next((way for way in ways if is_enough(way)), None)
    if used is None:
        return None
    for make in tuple(reversed(used)):  # what another has made needless, the most harmful first
        rest = [each for each in used if each is not make]
        used = rest if is_enough(rest) else used
    return turn(used)


def _told(turned: Sequence[Knob]) -> tuple[str, ...]:
    """Each knob without the keys that a later one sets anew."""
    found, later = [], set[str]()
    for knob in reversed(turned):
        left = {key: value for key, value in knob.keys.items() if key not in later}
        if left or knob.is_more:
            found.append(knob.said(left))
        later |= set(knob.keys)
    return tuple(reversed(found))


def _usual(job: Job, hardware: Hardware) -> Memory:
    return memory(job, hardware.device)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def knobs(job: Job, hardware: Hardware, estimate: Estimate = _usual) -> Iterator[Knob]:
    """Those that this run can turn, the least harmful first."""
    for make in _makers(estimate):
        found = make(job, hardware)
        if found is not None:
            yield found


def _smaller(job: Job, hardware: Hardware) -> Knob | None:
    if job.rows <= 1:
        return None
    part, times = job.most.scaled(1 / job.rows), job.rows
    if job.rollouts is not None:
        keys, costs = {"micro_batch_tokens": int(-(-part.positions // 64) * 64)}, "a little time"
    else:
        keys = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": job.accumulated * times}
        costs = "a little time; the step stays the same"
    made = replace(job, most=part, mean=job.mean.scaled(1 / job.rows), micros=job.micros * times, rows=1)
    return Knob(keys, costs, made, hardware)


def _fewer_slots(job: Job, hardware: Hardware) -> Knob | None:
    rolls = job.rollouts
    if rolls is None or rolls.is_remote or rolls.slots <= 8:
        return None
    made: Rollouts = replace(rolls, slots=8)
    return Knob({"sampler_slots": 8}, "slower sampling", replace(job, rollouts=made), hardware)


def _checkpointing(job: Job, hardware: Hardware) -> Knob | None:
    if job.checkpointing:
        return None
    made = replace(job, checkpointing=True)
    return Knob({"gradient_checkpointing": True}, "a third more time", made, hardware)


def _fsdp(job: Job, hardware: Hardware) -> Knob | None:
    if job.fsdp or job.processes == 1 or (job.lora and job.lora.bits):
        return None
    return Knob({"strategy": "fsdp"}, "communication in every layer", replace(job, fsdp=True), hardware)


def _offload_activations(job: Job, hardware: Hardware) -> Knob | None:
    if job.activation_offloading or hardware.device.is_cpu:
        return None
    made = replace(job, activation_offloading=True)
    return Knob({"activation_offloading": True}, "time to and from main memory", made, hardware)


def _offload_weights(job: Job, hardware: Hardware) -> Knob | None:
    if job.cpu_offload or hardware.device.is_cpu or job.processes == 1 or (job.lora and job.lora.bits):
        return None
    made = replace(job, fsdp=True, cpu_offload=True)
    return Knob({"strategy": "fsdp", "cpu_offload": True}, "much time to and from main memory", made, hardware)


def _lora(job: Job, hardware: Hardware) -> Knob | None:
    if job.lora is not None:
        return None
    adapter = Lora()
    kept = tuple(_as_adapter(each, adapter) for each in job.beside if each.name != "reference")
    return Knob(
        {"use_peft": True}, "trains an adapter, not the weights", replace(job, lora=adapter, beside=kept), hardware
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
    keys: Keys = ({} if start is None else {"use_peft": True}) | {"load_in_4bit": True}
    if job.fsdp:  # which shares out no four bits
        keys |= {"strategy": "ddp"}
        keys |= {"cpu_offload": False} if job.cpu_offload else {}
        keys |= {} if job.reshard else {"reshard_after_forward": True}
    whole = replace(made, lora=lora, fsdp=False, cpu_offload=False, reshard=True)
    return Knob(keys, "trains an adapter on a base in four bits", whole, hardware)


def _shorter(job: Job, hardware: Hardware) -> Knob | None:
    if job.most.span < 256 or job.rollouts is not None:
        return None
    made = replace(job, most=job.most.scaled(1, 0.5), mean=job.mean.scaled(1, 0.5))
    keys = {"max_length": (job.max_length or int(job.most.span)) // 2}
    return Knob(keys, "longer samples are cut", replace(made, max_length=keys["max_length"]), hardware)


def _more(job: Job, hardware: Hardware, *, estimate: Estimate) -> Knob | None:
    """The fewest processes that are enough, each with a share of the weights."""
    if job.lora is not None and job.lora.bits is not None:
        return None
    count = 2 * job.processes
    while count <= LARGEST:
        made = replace(job, processes=count, fsdp=True)
        there = replace(hardware, count=count)
        if fits(estimate(made, there), there):
            costs = f"{count // job.processes}x the devices"
            if job.rollouts is None:  # each process brings its own; rollouts are shared out
                costs += ", and as many times the rows of a step"
            return Knob({"strategy": "fsdp"}, costs, made, there, is_more=True)
        count *= 2
    return None


APART: tuple[tuple[Maker, ...], ...] = ((_four_bits,), (_fsdp, _offload_weights))
"""Four bits cannot be shared out: either is left."""


def _makers(estimate: Estimate) -> tuple[Maker, ...]:
    """The least harmful first."""
    return (
        _smaller,
        _fewer_slots,
        _checkpointing,
        _fsdp,
        _offload_activations,
        _offload_weights,
        _lora,
        _four_bits,
        partial(_more, estimate=estimate),
        _shorter,
    )
