"""Where bfloat16 pays."""

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than fp32: Ampere or newer, or a CPU with its own instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
