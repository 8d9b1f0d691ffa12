"""Which knob makes a run fit: the least harmful that is enough, or as few as are enough together."""

from dataclasses import replace

from posttrain.planning.fit import _checkpointing, _four_bits, _fsdp, _told, fits, knobs, search
from posttrain.planning.hardware import DEVICES, GIB, Hardware, described
from posttrain.planning.job import Job
from posttrain.planning.memory import Memory, memory
from posttrain.planning.paper import paper_job
from posttrain.planning.shapes import NAMED

H100 = DEVICES["H100-80G"]


def test_what_fits_needs_nothing() -> None:
    found = search(paper_job(NAMED["llama-7b"], "QLoRA", 1), Hardware(H100))
    assert found.fits
    assert found.together == ()


def test_checkpointing_before_all_else() -> None:
    start = replace(paper_job(NAMED["llama-7b"], "LoRA", 1, length=8192), checkpointing=False)
    found = search(start, Hardware(H100))
    assert found.together == ("gradient_checkpointing true",)
    assert found.job.checkpointing
    assert fits(memory(found.job, H100), found.hardware)


def test_smaller_batches_change_nothing_and_come_first() -> None:
    start = paper_job(NAMED["llama-7b"], "LoRA", 1, rows=64)
    found = search(start, Hardware(H100))
    assert found.together == ("per_device_train_batch_size 1, gradient_accumulation_steps 64",)
    assert found.job.micros == 64
    assert found.job.most.positions == start.most.positions / 64


def test_fsdp_where_there_are_more_devices() -> None:
    start = replace(paper_job(NAMED["llama-7b"], "full", 8), fsdp=False)
    assert search(start, Hardware(H100, 8)).together == ("strategy fsdp",)


def test_one_device_needs_an_adapter_or_more_devices() -> None:
    found = search(paper_job(NAMED["llama-7b"], "full", 1), Hardware(H100))
    assert found.together == ("use_peft true",)
    alone = {tried.keys: tried.fits for tried in found.alone}
    assert alone["use_peft true, load_in_4bit true"]
    assert alone["2 devices, strategy fsdp"]


def test_knobs_that_change_the_step_or_need_main_memory_say_so() -> None:
    """More processes bring more rows, of rollouts not; what is offloaded is somewhere else."""
    start = paper_job(NAMED["llama-70b"], "full", 2)
    told = {tried.keys: tried.costs for tried in search(start, Hardware(H100, 2)).alone}
    assert told["16 devices, strategy fsdp"] == "8x the devices, and as many times the rows of a step"
    host = sum(memory(replace(start, cpu_offload=True), H100).host.values()) / GIB
    assert told["strategy fsdp, cpu_offload true"].endswith(f"; {host:,.0f} GiB of main memory a device")
    assert not {tried.keys: tried.fits for tried in search(start, Hardware(H100, 2, 100 * GIB)).alone}[
        "strategy fsdp, cpu_offload true"
    ]


def test_several_together() -> None:
    small = described(H100, memory_gb=24)
    start = replace(paper_job(NAMED["llama-7b"], "LoRA", 1, length=16384), checkpointing=False)
    found = search(start, Hardware(small))
    assert found.together is not None
    assert len(found.together) > 1
    assert found.together[0] == "gradient_checkpointing true"
    assert memory(found.job, small).total <= 24 * GIB


def test_nothing_helps() -> None:
    tiny = described(H100, memory_gb=1)
    assert search(paper_job(NAMED["llama-405b"], "QLoRA", 1), Hardware(tiny)).together is None


def test_knobs_change_the_run_that_they_name() -> None:
    start = replace(paper_job(NAMED["llama-7b"], "full", 8, rows=2), checkpointing=False, fsdp=False)
    named = {next(iter(knob.keys)): knob.job for knob in knobs(start, Hardware(H100, 8)) if not knob.is_more}
    assert named["gradient_checkpointing"].checkpointing
    assert named["strategy"].fsdp
    assert named["use_peft"].lora is not None
    assert named["activation_offloading"].activation_offloading
    assert named["max_length"].most.span == start.most.span / 2


def test_four_bits_are_not_shared_out() -> None:
    start = replace(
        paper_job(NAMED["llama-7b"], "full", 8), cpu_offload=True, reshard=False, activation_offloading=True
    )
    told = [tried.keys for tried in search(start, Hardware(described(H100, memory_gb=8), 8, 8 * GIB)).alone]
    keys = "use_peft true, load_in_4bit true, strategy ddp, cpu_offload false, reshard_after_forward true"
    assert keys in told


def test_four_bits_are_found_where_shares_would_stand_in_their_way() -> None:
    start = replace(paper_job(NAMED["llama-70b"], "full", 2), fsdp=False, checkpointing=False)
    small = described(H100, memory_gb=56)
    found = search(start, Hardware(small, 2, 10 * GIB))
    assert found.together == ("gradient_checkpointing true", "use_peft true, load_in_4bit true")
    assert found.keys == {"gradient_checkpointing": True, "use_peft": True, "load_in_4bit": True}
    assert memory(found.job, small).total <= 56 * GIB


def test_what_a_later_knob_sets_anew_is_not_told_of_the_earlier() -> None:
    start = replace(paper_job(NAMED["llama-70b"], "LoRA", 4), fsdp=False, checkpointing=False)
    made = [make(start, Hardware(H100, 4)) for make in (_checkpointing, _fsdp)]
    made.append(_four_bits(replace(start, fsdp=True), Hardware(H100, 4)))
    told = _told([knob for knob in made if knob is not None])
    assert told == ("gradient_checkpointing true", "load_in_4bit true, strategy ddp")


def test_knobs_that_the_recipe_refuses_are_not_told() -> None:
    start = replace(paper_job(NAMED["llama-7b"], "full", 8), fsdp=False)
    found = search(start, Hardware(H100, 8), accepts=lambda keys: "strategy" not in keys)
    assert found.together == ("use_peft true",)
    assert not any("fsdp" in tried.keys for tried in found.alone)


def test_more_devices_are_counted_as_the_run_was_estimated() -> None:
    """With the looseness of a probe, not with that of other machines."""
    start = paper_job(NAMED["llama-7b"], "full", 1)

    def tight(job: Job, hardware: Hardware) -> Memory:
        found = memory(job, hardware.device)
        return replace(found, parts={name: 4 * size for name, size in found.parts.items()})

    for estimate, count in ((None, 2), (tight, 8)):
        told = {tried.keys: tried.fits for tried in search(start, Hardware(H100), estimate).alone}
        assert told[f"{count} devices, strategy fsdp"]
