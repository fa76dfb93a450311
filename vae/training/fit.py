r"""Fits a VAE: one loop, read top to bottom.

Averaged weights (EMA) are what is evaluated and kept. In float32 on a CPU the same seed gives the
same weights, bit for bit, also when the run was interrupted and resumed. Nothing in a step waits
for a number from the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from vae.data.datasets import ImageData
from vae.model.linear import use_onednn
from vae.model.vae import VAE
from vae.training.config import TrainConfig
from vae.training.devices import choose_device, device_name
from vae.training.loss.training_loss import BatchLoss, TrainingLoss
from vae.processes import ALONE, Processes
from vae.training.loss.schedules import kl_setting, learning_rate
from vae.training.shared_update import SharedUpdate, share_update
from vae.training.speed import Speed, choose_speed
from vae.training.state.run_state import RunState
from vae.training.run.stopping import Interrupted
from vae.training.validation import validate
from vae.training.run.monitor import Watch

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
        speed: The arithmetic, in words.
        processes: The number of processes that shared each batch.
        departures: What was changed when it was resumed, in words.
    """

    model: VAE
    history: list[dict[str, Any]]
    best_step: int
    steps: int
    seconds: float
    device: str
    speed: str
    processes: int
    departures: list[str]


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
    speed = _speed(state, loss_of, watch, processes)
    step_of = speed.ready(loss_of)
    shared = share_update(state, processes)
    if processes.count > 1 and shared is None:
        # Buffers are equal everywhere without being sent in each step.
        step_of = DistributedDataParallel(
            step_of, gradient_as_bucket_view=True, broadcast_buffers=False
        )
    largest = (shared or processes).largest
    validation = data.read(data.splits.validation[: config.validation_images])
    # A contrast's point is where it ends, and test images choose nothing.
    chooses = config.objective != "batch_moment_kl" and data.validation_chooses

    watch.start(
        state, state.batches.size,
        {
            "device": device_name(device), "arithmetic": speed.name, "chooses": chooses,
            "departures": state.departures,
        },
    )  # fmt: skip
    watch.say(_opening(state, speed, processes))
    if differing:
        watch.say(f"Not the run as it was begun: {'; '.join(differing)}")
    start = time.perf_counter() - state.seconds
    limit = 60 * config.max_minutes or math.inf
    time_share = state.seconds / limit
    verdict = largest(processes.leads and _is_stale(state))
    try:
        while state.step < config.steps and time_share < 1 and not verdict:
            train_step(state, step_of, speed, processes, shared, time_share)
            state.seconds = time.perf_counter() - start

            evaluates = state.step % config.evaluate_every == 0
            if evaluates:
                _evaluate(state, validation, chooses, watch, processes)
            if processes.leads:
                watch.look(state)
            if processes.count == 1 or state.step % _AGREE_EVERY == 0:
                time_share = largest(state.seconds / limit)
                verdict = largest(watch.verdict)
            if config.patience and evaluates:
                verdict = verdict or largest(processes.leads and _is_stale(state))
        interrupted = verdict >= 2
        if not interrupted and (not state.history or state.history[-1]["step"] < state.step):
            _evaluate(state, validation, chooses, watch, processes)
        if processes.leads:
            watch.save(state)
        if interrupted:
            raise Interrupted(state.step, int(verdict) - 2)
    except Diverged as error:
        watch.close(state, "diverged", str(error), {"last_losses": state.last_losses()})
        raise
    except Interrupted as error:
        watch.close(state, "interrupted", str(error))
        raise
    except BaseException as error:
        watch.close(state, "failed", str(error) or type(error).__name__)
        raise
    finally:
        if shared is not None:
            shared.close()
    watch.close(state)
    model = state.model.cpu()
    # From here on its scores are those that the app will give.
    use_onednn(model, False)
    if processes.leads:
        model.load_state_dict(state.best)
    return Fitted(
        model=model.eval().requires_grad_(False),
        history=state.history,
        best_step=state.best_step,
        steps=state.step,
        seconds=state.seconds,
        device=device_name(device),
        speed=speed.name,
        processes=processes.count,
        departures=state.departures,
    )


def train_step(
    state: RunState,
    step_of: Callable[..., BatchLoss],
    speed: Speed,
    processes: Processes = ALONE,
    shared: SharedUpdate | None = None,
    time_share: float = 0.0,
) -> None:
    """Takes one step: a batch, its loss, the gradient, the weights and their average.

    Args:
        state: The run, which is changed.
        step_of: Maps a batch to the losses of its images.
        speed: The arithmetic of the forward pass.
        processes: Those that share the batch.
        shared: Their update, where each does a part of it.
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
    with speed.autocast(state.device):
        outcome = step_of(*batch, setting)
    # The only mean over the batch in the project: each image's own loss, then their average.
    # Shares are equal, so the mean over processes is that over images too.
    loss = outcome.loss.mean()
    # What the optimiser's own zero_grad does, without its book-keeping.
    for weight in state.parameters:
        weight.grad = None
    loss.backward()
    if shared is not None:
        shared.take_means_()
    norm = _clip(state.parameters, config.clip, shared)
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
    if shared is not None:
        shared.end()


def _clip(
    parameters: list[torch.nn.Parameter], largest: float, shared: SharedUpdate | None
) -> torch.Tensor:
    """Clips the gradient's norm and returns what it was.

    As ``torch.nn.utils.clip_grad_norm_``, bit for bit; but where the norm can be read without
    waiting for a device, a gradient that is short enough isn't multiplied by one.
    """
    norm = torch.nn.utils.get_total_norm(
        [weight.grad for weight in parameters if weight.grad is not None]
    )
    if shared is not None:
        norm = shared.norm(norm)
    # The small number is torch's, which divides by the norm and it.
    if norm.device.type != "cpu" or not norm + 1e-6 <= largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


def _speed(state: RunState, loss_of: TrainingLoss, watch: Watch, processes: Processes) -> Speed:
    """The arithmetic: that of the run being resumed, or what the leading process finds best."""
    if not state.speed:
        found = None
        if processes.leads:
            found = json.dumps(choose_speed(state, loss_of, watch.say)._asdict()).encode()
        state.speed = json.loads(processes.from_leader(found))
    return Speed(**state.speed)


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


def _opening(state: RunState, speed: Speed, processes: Processes) -> str:
    place = device_name(state.device)
    if state.device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"{place}, {threads} {'thread' if threads == 1 else 'threads'}"
    if processes.count > 1:
        place = f"{processes.count} processes, each on {place}"
    begun = f", resumed at step {state.step}" if state.step else ""
    return f"Training on {place}, {speed.name}{begun}"
