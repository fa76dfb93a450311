r"""What changes as a run goes on: the learning rate, and the weight or capacity of the KL.

References:
    | SGDR (Loshchilov & Hutter, 2017), eq. 5, for the cosine, https://arxiv.org/abs/1608.03983
    | Generating Sentences from a Continuous Space (Bowman et al., 2016), section 3.1, for warm-up,
    | https://arxiv.org/abs/1511.06349
    | Cyclical Annealing Schedule (Fu et al., 2019), eq. 6-7, https://arxiv.org/abs/1903.10145
    | Understanding disentangling in beta-VAE (Burgess et al., 2018), section 5, for the capacity,
    | https://arxiv.org/abs/1804.03599
"""

from __future__ import annotations

import math

from vae.training.config import TrainConfig

__all__ = ["kl_setting", "learning_rate"]


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """The learning rate at a step, after a linear warm-up.

    Args:
        step: The number of steps already taken.
        progress: The share in [0, 1] of the run that is over, in steps or in time.
        config: Names the schedule.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    match config.schedule:
        case "cosine":
            share = warm * 0.5 * (1 + math.cos(math.pi * progress))
        case "constant":
            share = warm
        case "constant_then_linear":
            # The last quarter settles what averaged weights cannot.
            share = warm * min(1.0, 4 * (1 - progress))
    return config.learning_rate * share


def kl_setting(step: int, config: TrainConfig) -> float | None:
    """The scheduled beta or capacity at a step; none where the objective has no schedule.

    Args:
        step: The number of steps already taken.
        config: Names the objective and its schedule.
    """
    if config.objective == "capacity":
        return config.capacity * _risen(step, config.capacity_steps)
    if config.objective != "beta" or config.beta_schedule == "constant":
        return None
    if config.beta_schedule == "warm_up":
        return config.beta * _risen(step, config.beta_steps)
    # Each cycle rises during its first half and stays for the second.
    return config.beta * min(1.0, 2 * (step % config.beta_steps) / config.beta_steps)


def _risen(step: int, steps: int) -> float:
    return min(1.0, step / steps) if steps else 1.0
