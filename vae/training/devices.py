"""Where to train."""

from __future__ import annotations

import torch

__all__ = ["choose_device", "device_name"]


def choose_device(name: str) -> torch.device:
    """Resolves ``auto`` to a GPU if there is one, else the CPU.

    Raises:
        ValueError: If the named device isn't there.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(choice for choice in ("cuda", "mps", "cpu") if available[choice])
    if not available[name]:
        usable = ", ".join(choice for choice, there in available.items() if there)
        raise ValueError(f"device {name!r} is not available here; choose one of: {usable}.")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
