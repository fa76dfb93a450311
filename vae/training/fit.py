r"""Fits a VAE: one loop, read top to bottom.

Averaged weights (EMA) are what is evaluated and kept. In float32 on a CPU the same seed gives the
same weights, bit for bit, also when the run was interrupted and resumed. Nothing in a step waits
for a number from the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from vae.data.sets.image_data import ImageData
from vae.model.vae import VAE
from vae.processes import ALONE, Processes
from vae.training.arithmetic import Arithmetic, arithmetic_of, choose_device, compiled, device_name
from vae.training.config import TrainConfig
from vae.training.loss.schedules import kl_setting, learning_rate
from vae.training.loss.training_loss import BatchLoss, TrainingLoss
from vae.training.run.monitor import GO_ON, Interrupted, Watch
from vae.training.state.run_state import RunState
from vae.training.validation import validate

__all__ = ["Diverged", "Fitted", "fit", "train_step"]

# Several processes agree on how far they are, and whether to end, once in so many steps; a GPU is
# asked as seldom whether its numbers are still finite.
_AGREE_EVERY = 10


class Diverged(RuntimeError):
    """Raised when the loss is no longer finite."""


class Fitted(NamedTuple):
    """The outcome of a run.

    Attributes:
        model: The model with the averaged weights of the best evaluation, on the CPU.
        history: One mapping for each evaluation.
        best_step: The step of the kept weights.
        steps: The number of steps taken.
        seconds: The wall time of the loop.
        device: The device it ran on.
        arithmetic: The arithmetic, in words.
        processes: The number of processes that shared each batch.
        departures: What was changed when it was resumed, in words.
    """

    model: VAE
    history: list[dict[str, Any]]
    best_step: int
    steps: int
    seconds: float
    device: str
    arithmetic: str
    processes: int
    departures: list[str]


# Longer than others: the whole run, in the order in which it happens.
def fit(
    config: TrainConfig,
    data: ImageData,
    progress: bool = True,
    watch: Watch | None = None,
    processes: Processes = ALONE,
    saved: tuple[bytes, bytes | None] | None = None,
    force: bool = False,
) -> Fitted:
    """Trains a VAE.

    Args:
        config: The run.
        data: The data set; only its train and validation splits are read.
        progress: Whether to draw a progress bar on standard error, where no watch is given.
        watch: Shows, records and saves the run.
        processes: Those that share each batch.
        saved: The state and the best weights, as saved, of a run to resume.
        force: Whether a run may go on with another config; what differs is recorded.

    Returns:
        The best model on the validation split by the ELBO, whatever the objective; except under
        ``batch_moment_kl``, whose point is where it ends, so that its last weights are kept.

    Raises:
        Diverged: If the loss stops being finite.
        Interrupted: If the run was asked to end; its state is saved.
        Changed: If the saved run isn't this one.
        OSError: If the disk refuses what must be saved.
    """
    watch = watch or Watch(progress=progress)
    device = choose_device(config.device)
    state = RunState(config, data, device, processes)
    differing = [] if saved is None else state.load(*saved, force)
    loss_of = TrainingLoss(state.model, config, len(data.splits.train), processes)
    step_of, arithmetic = compiled(state, loss_of, arithmetic_of(config, device), watch.say)
    if processes.count > 1:
        step_of = DistributedDataParallel(step_of, gradient_as_bucket_view=True)
    validation = data.read(data.splits.validation[: config.validation_images])
    # A contrast's point is where it ends, and test images choose nothing.
    chooses = config.objective != "batch_moment_kl" and data.validation_chooses
    facts = {
        "device": device_name(device),
        "arithmetic": arithmetic.name,
        "chooses": chooses,
        "departures": state.departures,
    }
    watch.start(state, state.batches.size, facts)
    watch.say(_opening(state, arithmetic, processes))
    if differing:
        watch.say(f"Not the run as it was begun: {'; '.join(differing)}")

    start = time.perf_counter() - state.seconds
    limit = 60 * config.max_minutes or math.inf
    time_share, ending = state.seconds / limit, GO_ON
    try:
        stale = processes.from_leader(_is_stale(state))
        while state.step < config.steps and time_share < 1 and not stale and not ending.asked:
            train_step(state, step_of, arithmetic, processes, time_share)
            state.seconds = time.perf_counter() - start
            if state.step % config.evaluate_every == 0:
                _evaluate(state, validation, chooses, watch, processes)
                if config.patience:
                    stale = processes.from_leader(_is_stale(state))
            if processes.leads:
                watch.look(state)
            if processes.count == 1 or state.step % _AGREE_EVERY == 0:
                time_share = processes.largest(state.seconds / limit)
                ending = processes.largest(watch.ending)
        if not ending.asked and (not state.history or state.history[-1]["step"] < state.step):
            _evaluate(state, validation, chooses, watch, processes)
        if processes.leads:
            watch.save(state)
        if ending.asked:
            raise Interrupted(state.step, ending.signal)
    except Diverged as error:
        watch.close(state, "diverged", str(error), {"last_losses": state.last_losses()})
        raise
    except Interrupted as error:
        watch.close(state, "interrupted", str(error))
        raise
    except BaseException as error:
        watch.close(state, "failed", str(error) or type(error).__name__)
        raise
    watch.close(state)
    model = state.model.cpu()
    if processes.leads:
        model.load_state_dict(state.best)
    return Fitted(
        model=model.eval().requires_grad_(False),
        history=state.history,
        best_step=state.best_step,
        steps=state.step,
        seconds=state.seconds,
        device=device_name(device),
        arithmetic=arithmetic.name,
        processes=processes.count,
        departures=state.departures,
    )


def train_step(
    state: RunState,
    step_of: Callable[..., BatchLoss],
    arithmetic: Arithmetic,
    processes: Processes = ALONE,
    time_share: float = 0.0,
) -> None:
    """Takes one step: a batch, its loss, the gradient, the weights and their average.

    Args:
        state: The run, which is changed.
        step_of: Maps a batch to the losses of its images.
        arithmetic: The arithmetic of the forward pass.
        processes: Those that share the batch.
        time_share: The share in [0, 1] of the run's minutes that is over.

    Raises:
        Diverged: If the gradient is no longer finite; the weights are not touched by it.
    """
    config, optimizer = state.config, state.optimizer
    done = max(state.step / config.steps, time_share)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(state.step, done, config)
    setting = kl_setting(state.step, config)
    if setting is not None:
        setting = torch.tensor(setting, device=state.device)

    batch = state.batches.draw()
    with arithmetic.autocast(state.device):
        outcome = step_of(*batch, setting)
    # The only mean over the batch in the project: each image's own loss, then their average.
    # Shares are equal, so the mean over processes is that over images too.
    loss = outcome.loss.mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, config.clip)
    state.step += 1
    state.note(outcome, loss, norm)
    # Asking a GPU would make it wait; what it learns too late is never saved.
    if (state.device.type == "cpu" or state.step % _AGREE_EVERY == 0) and not state.finite:
        raise Diverged(
            f"The loss is no longer finite at step {state.step}; lower --learning-rate or raise "
            "--warmup-steps."
        )
    optimizer.step()
    likelihood = state.model.decoder.likelihood
    if likelihood.adapts:
        likelihood.adapt_(processes.mean(outcome.squared_error))
    state.average()


def _evaluate(
    state: RunState,
    levels: np.ndarray,
    chooses: bool,
    watch: Watch,
    processes: Processes,
) -> None:
    """Evaluates the averaged weights, adds the record to the history, and keeps the best."""
    state.join_averages(processes)
    means = state.averages()
    state.reset_averages()
    if not processes.leads:
        state.history.append({"step": state.step})
        return
    found = validate(state.averaged, levels, state.config, state.device)
    if not math.isfinite(found["elbo"]):
        raise Diverged(
            f"The validation ELBO is no longer finite at step {state.step}; lower --learning-rate."
        )
    state.history.append(
        {
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "train": {"elbo": means.elbo, "rate": means.rate, "distortion": means.distortion},
            "validation": found,
        }
    )
    if found["elbo"] > state.best_elbo or not chooses:
        state.keep_as_best(found["elbo"])
    watch.evaluated(state)


def _is_stale(state: RunState) -> bool:
    """Whether so many evaluations in a row brought nothing better that the run may end."""
    since = [record for record in state.history if record["step"] > state.best_step]
    return 0 < state.config.patience <= len(since)


def _opening(state: RunState, arithmetic: Arithmetic, processes: Processes) -> str:
    place = device_name(state.device)
    if state.device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"{place}, {threads} {'thread' if threads == 1 else 'threads'}"
    if processes.count > 1:
        place = f"{processes.count} processes, each on {place}"
    begun = f", resumed at step {state.step}" if state.step else ""
    return f"Training on {place}, {arithmetic.name}{begun}"
