"""What a run stands on: devices, their memory and speed, and the links between them. Figures are the makers' own.

`8xH100-80G` is one node of eight; more devices than a node holds are several nodes. Speeds are peaks; what of them a
run reaches is in `efficiency`.
"""

import difflib
import re
from dataclasses import dataclass, replace

from posttrain.errors import ConfigError

GB, GIB = 1e9, 2**30


@dataclass(frozen=True)
class Device:
    """One of them. `memory`: bytes. `bf16`, `fp32`: dense products, operations a second. `bandwidth`: of its memory,
    `link`: to the others of its node, `net`: to other nodes, each bytes a second and one way. `call_s`: one operation
    started, however small. `reserve`: bytes that the driver and kernels take. `efficiency`: share of the peak that the
    products of a training step reach."""

    name: str
    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    link: float
    net: float
    node: int
    source: str
    efficiency: float = 0.40
    call_s: float = 5e-6
    reserve: float = 1.5 * GIB
    is_cpu: bool = False


def _gpu(
    name: str, gib: float, bf16: float, fp32: float, memory: float, link: float, node: int, reached: float, source: str
) -> Device:
    """In the units of a data sheet: GB, TFLOP/s, GB/s. `link`: one way, half of the sheet's total. Between nodes 400
    Gb/s a device, as in NVIDIA's DGX H100 and Meta's clusters (Grattafiori et al., 2024, section 3.3.1). `reached`: of
    H100 and A100 so that one published run each comes out (planning/paper.py); of others taken over from their kind."""
    speeds = bf16 * 1e12, fp32 * 1e12, memory * GB, link * GB, 50 * GB
    return Device(name, gib * GIB, *speeds, node, source, efficiency=reached)


# Memory is what CUDA reports of it (80 "GB" are 79.2 GiB). bf16 is dense: sheets that print the double mean sparse.
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _gpu("H100-80G", 79.2, 989.5, 66.9, 3350, 450, 8, 0.34, "NVIDIA H100 Tensor Core GPU data sheet, SXM5"),
        _gpu("H200-141G", 139.8, 989.5, 66.9, 4800, 450, 8, 0.34, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
        _gpu("B200-180G", 178.4, 2250, 75, 7700, 900, 8, 0.34, "NVIDIA DGX B200 data sheet, an eighth of it"),
        _gpu("A100-80G", 79.2, 312, 19.5, 2039, 300, 8, 0.62, "NVIDIA A100 Tensor Core GPU data sheet, SXM 80 GB"),
        _gpu("A100-40G", 39.4, 312, 19.5, 1555, 300, 8, 0.62, "NVIDIA A100 Tensor Core GPU data sheet, SXM 40 GB"),
        _gpu("L40S-48G", 44.5, 362, 91.6, 864, 32, 8, 0.5, "NVIDIA L40S data sheet; PCIe 4.0 x16"),
        _gpu("RTX4090-24G", 23.6, 165.2, 82.6, 1008, 32, 4, 0.6, "NVIDIA Ada GPU architecture, appendix A; PCIe 4.0"),
        _gpu("RTX3090-24G", 23.7, 71, 35.6, 936, 32, 4, 0.62, "NVIDIA Ampere GA102 architecture, table 2; PCIe 4.0"),
        _gpu("MI300X-192G", 191.5, 1307.4, 163.4, 5300, 448, 8, 0.35, "AMD Instinct MI300X data sheet; 7 links"),
    )
}


@dataclass(frozen=True)
class Hardware:
    """So many devices of a kind; `host`: bytes of main memory beside each."""

    device: Device
    count: int = 1
    host: float | None = None

    @property
    def nodes(self) -> int:
        """Machines that they fill."""
        return -(-self.count // self.device.node)

    def __str__(self) -> str:
        return f"{self.count}x{self.device.name}"


def parse_hardware(text: str) -> Hardware:
    """`8xH100-80G`, `H100` or `64x A100-40G`. Raises ConfigError that names the nearest."""
    found = re.fullmatch(r"\s*(?:(\d{1,9})\s*[x*]\s*)?([A-Za-z][\w -]*?)\s*", text)
    if not found or (found[1] and not int(found[1])):
        raise ConfigError(f"hardware {text!r} is not understood: write a count and a device, as in 8xH100-80G.")
    count, asked = int(found[1] or 1), re.sub(r"[\s_-]|NVIDIA|AMD|RTX", "", found[2].upper())
    plain = {name: re.sub(r"-|RTX", "", name) for name in DEVICES}
    hits = [name for name, key in plain.items() if key.removesuffix("G") in (asked, asked.removesuffix("G"))]
    hits = hits or [name for name in DEVICES if asked == re.sub("RTX", "", name.split("-")[0])]
    if not hits:
        near = difflib.get_close_matches(asked, plain.values(), n=1, cutoff=0.3)
        name = next((name for name, key in plain.items() if near and key == near[0]), "H100-80G")
        raise ConfigError(
            f"hardware {text!r}: no device {found[2]!r}, did you mean {count}x{name}? Known: {', '.join(DEVICES)}, and "
            "cpu; describe others by memory_gb, tflops, bandwidth_gbs, link_gbs and net_gbs."
        )
    return Hardware(DEVICES[hits[0]], count)


def cpu(*, cores: int, memory: float, bf16: float, fp32: float, bandwidth: float) -> Device:
    """The processor of a machine, as one device: all of it trains one process."""
    return Device(
        f"CPU with {cores} cores", memory, bf16, fp32, bandwidth, bandwidth / 4, 1.25 * GB, 1, "measured here",
        efficiency=1.0, call_s=1e-5, reserve=0.0, is_cpu=True,
    )  # fmt: skip


def described(
    device: Device,
    *,
    memory_gb: float | None = None,
    tflops: float | None = None,
    bandwidth_gbs: float | None = None,
    link_gbs: float | None = None,
    net_gbs: float | None = None,
    efficiency: float | None = None,
) -> Device:
    """The device with what is known better."""
    changes = {
        "memory": None if memory_gb is None else memory_gb * GIB,
        "bf16": None if tflops is None else tflops * 1e12,
        "bandwidth": None if bandwidth_gbs is None else bandwidth_gbs * GB,
        "link": None if link_gbs is None else link_gbs * GB,
        "net": None if net_gbs is None else net_gbs * GB,
        "efficiency": efficiency,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(device, **given) if given else device  # type: ignore[arg-type]
