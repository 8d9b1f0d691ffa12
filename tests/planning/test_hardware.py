"""`8xH100-80G` and its kin, and errors that name the nearest."""

import pytest

from posttrain.errors import ConfigError
from posttrain.planning.hardware import DEVICES, GIB, described, parse_hardware


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100-80G", 8, "H100-80G"),
        ("H100", 1, "H100-80G"),
        ("64x a100-40g", 64, "A100-40G"),
        ("2*RTX 4090", 2, "RTX4090-24G"),
        ("1xNVIDIA H200", 1, "H200-141G"),
        ("4xL40S", 4, "L40S-48G"),
        ("MI300X", 1, "MI300X-192G"),
    ],
)
def test_what_is_understood(text: str, count: int, name: str) -> None:
    found = parse_hardware(text)
    assert (found.count, found.device.name) == (count, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8xH10", "did you mean 8xH100-80G"),
        ("4xA10-80G", "did you mean 4xA100-80G"),
        ("eight H100s!", "not understood"),
        ("0xH100", "not understood"),
        ("00xH100", "not understood"),
        (f"{9 * '9999999999'}xH100", "not understood"),
    ],
)
def test_what_is_not(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_hardware(text)


def test_nodes_and_links() -> None:
    assert parse_hardware("8xH100").nodes == 1
    assert parse_hardware("9xH100").nodes == 2
    assert str(parse_hardware("16x H100")) == "16xH100-80G"


def test_what_is_known_better() -> None:
    found = described(DEVICES["H100-80G"], memory_gb=94, tflops=800, net_gbs=None)
    assert (found.memory, found.bf16, found.net) == (94 * GIB, 8e14, 50e9)


def test_every_figure_has_a_source() -> None:
    for device in DEVICES.values():
        assert device.source
        assert 0 < device.efficiency < 1
        assert device.fp32 < device.bf16
