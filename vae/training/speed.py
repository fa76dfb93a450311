"""Which arithmetic pays: timed on the spot, with the run's own network and batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from vae.model.linear import onednn_pays, use_onednn
from vae.training.loss import TrainingLoss
from vae.training.state import RunState

__all__ = ["Speed", "choose_speed", "float32_on"]

# Shorter runs stay with float32, which gives the same weights each time.
_AUTO_STEPS = 10_000
# Compiling takes up to a minute or two.
_COMPILE_SECONDS = 300
# What doesn't pay by a tenth isn't worth another arithmetic.
_GAIN = 1.1


class Speed(NamedTuple):
    """How a step is computed.

    Attributes:
        bfloat16: Whether the network's products use 16-bit floats.
        compiled: Whether torch.compile translates the step.
        onednn: Whether float32 products of fully connected layers come from oneDNN.
    """

    bfloat16: bool = False
    compiled: bool = False
    onednn: bool = False

    @property
    def name(self) -> str:
        """In words."""
        numbers = "bfloat16" if self.bfloat16 else "float32"
        words = [f"{numbers} by oneDNN" if self.onednn else numbers]
        return ", ".join([*words, "compiled"] if self.compiled else words)

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return torch.autocast(device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def ready(self, loss: nn.Module) -> Callable[..., Any]:
        """The module, whose layers are told where products come from, or its translation."""
        use_onednn(loss, self.onednn)
        return torch.compile(loss) if self.compiled else loss


def float32_on(device: torch.device) -> Speed:
    """Plain float32, in the way that is fastest on a device."""
    return Speed(onednn=device.type == "cpu" and onednn_pays())


def choose_speed(state: RunState, loss: TrainingLoss, say: Callable[[str], None]) -> Speed:
    """Chooses the arithmetic of a run as its config asks.

    Args:
        state: The state of the run, which is left as it is.
        loss: Its loss.
        say: Takes a line for people.
    """
    config = state.config
    long = config.steps > _AUTO_STEPS
    # Eight significant bits can name black and white, and not 256 levels.
    narrow = long and config.likelihood.startswith("bernoulli")
    seconds: dict[Speed, float] = {}

    def works(speed: Speed) -> bool:
        try:
            seconds[speed] = _seconds_a_step(state, loss, speed)
        except Exception as error:  # whatever a compiler or a processor lacks, training goes on
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            say(f"{speed.name} is not possible here and left out ({reason[:160]})")
            return False
        return True

    plain, narrower = float32_on(state.device), Speed(bfloat16=True)
    speeds = [plain]
    if config.precision == "bfloat16" and works(narrower):
        speeds = [narrower]
    elif config.precision == "auto" and narrow:
        speeds = [plain, narrower]
    may_compile = config.compile == "auto" and long
    # A lone choice needs no clock.
    if may_compile or len(speeds) > 1:
        speeds = [one for one in speeds if one in seconds or works(one)] or [plain]
    best = _fastest(speeds, seconds)
    # Each of them: what gains nothing by itself may when it is compiled.
    compiled = [one._replace(compiled=True) for one in speeds]
    if config.compile == "on":
        best = _fastest([one for one in compiled if works(one)] or [best], seconds)
    elif may_compile and best in seconds:
        expected = config.steps * seconds[best]
        if config.max_minutes:
            expected = min(expected, 60 * config.max_minutes)
        if expected > _COMPILE_SECONDS:
            best = _fastest([best, *(one for one in compiled if works(one))], seconds)
    if len(seconds) > 1:
        slowest = max(seconds.values())
        times = "; ".join(f"{one.name} {slowest / spent:.2f}" for one, spent in seconds.items())
        say(f"speed of each arithmetic against the slowest: {times}. Taken: {best.name}")
    return best


def _fastest(speeds: Sequence[Speed], seconds: Mapping[Speed, float]) -> Speed:
    """The first, unless another is clearly faster."""
    best = speeds[0]
    for other in speeds[1:]:
        if seconds[best] > _GAIN * seconds[other]:
            best = other
    return best


def _seconds_a_step(state: RunState, loss: TrainingLoss, speed: Speed) -> float:
    """Times steps of a copy, so that the run's own weights and generator stay where they are."""
    kept = state.batches.state()
    batch = state.batches.draw()
    state.batches.load_state(kept)
    # By itself: where several processes train, only the leading one is here.
    trial = TrainingLoss(copy.deepcopy(loss.model), loss.config, loss.images)
    weights = list(trial.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=state.device.type != "mps")
    step_of = speed.ready(trial)
    setting = torch.ones((), device=state.device) if loss.scheduled else None

    def step() -> None:
        with speed.autocast(state.device):
            outcome = step_of(*batch, setting)
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, state.config.clip)
        optimizer.step()

    for _ in range(3):
        step()
    _finish(state.device)
    start, taken = time.perf_counter(), 0
    while taken < 20 and (taken < 3 or time.perf_counter() - start < 3):
        step()
        taken += 1
    _finish(state.device)
    return (time.perf_counter() - start) / taken


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
