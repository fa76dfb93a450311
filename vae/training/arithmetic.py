"""Where and how a training step is computed: the device, float32 or bfloat16, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from vae.training.config import TrainConfig
from vae.training.loss.training_loss import TrainingLoss
from vae.training.state.run_state import RunState

__all__ = ["Arithmetic", "arithmetic_of", "choose_device", "compiled", "device_name"]


class Arithmetic(NamedTuple):
    """How a step is computed.

    Attributes:
        bfloat16: Whether the network's products use 16-bit floats.
        compiled: Whether torch.compile translates the step.
    """

    bfloat16: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """In words."""
        numbers = "bfloat16" if self.bfloat16 else "float32"
        return f"{numbers}, compiled" if self.compiled else numbers

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return torch.autocast(device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


def arithmetic_of(config: TrainConfig, device: torch.device) -> Arithmetic:
    """What a run asks for; ``auto`` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    bfloat16 = config.precision == "bfloat16"
    if config.precision == "auto" and device.type == "cuda":
        bfloat16 = torch.cuda.is_bf16_supported()
    return Arithmetic(bfloat16, config.compile == "on")


def compiled(
    state: RunState, loss: TrainingLoss, arithmetic: Arithmetic, say: Callable[[str], None]
) -> tuple[Callable[..., Any], Arithmetic]:
    """The loss as torch.compile translates it, or as it is where that isn't possible here.

    Args:
        state: The run, which is left as it is.
        loss: Its loss.
        arithmetic: What was asked for.
        say: Takes a line for people.
    """
    if not arithmetic.compiled:
        return loss, arithmetic
    kept = state.batches.state()
    setting = torch.ones((), device=state.device) if loss.scheduled else None
    try:
        translated = torch.compile(loss)
        # The compiler only starts at the first step.
        with arithmetic.autocast(state.device):
            outcome = translated(*state.batches.draw(), setting)
        outcome.loss.mean().backward()
    except Exception as error:  # whatever a compiler lacks, training goes on
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"{arithmetic.name} is not possible here and left out ({reason[:160]})")
        translated, arithmetic = loss, arithmetic._replace(compiled=False)
    finally:
        state.batches.load_state(kept)
        for weight in state.parameters:
            weight.grad = None
    return translated, arithmetic


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
