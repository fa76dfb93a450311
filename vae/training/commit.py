"""From a fitted model to a committed checkpoint: reference statistics, metrics and facts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vae.data.sets.image_data import ImageData
from vae.scoring.evaluation import checkpoint_facts, reference_of
from vae.store import checkpoint
from vae.training.config import TrainConfig
from vae.training.fit import Fitted

__all__ = ["commit"]


def commit(
    path: Path,
    config: TrainConfig,
    data: ImageData,
    fitted: Fitted,
    command: str,
    overwrite: bool = False,
    progress: bool = True,
) -> Mapping[str, Any]:
    """Evaluates a fitted model on the reference set and commits the checkpoint.

    Args:
        path: The directory to make.
        config: The run.
        data: The data set.
        fitted: The outcome of the run.
        command: The command line that repeats it.
        overwrite: Whether a checkpoint that stands there is replaced.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The metrics on the validation split.

    Raises:
        FileExistsError: If the directory exists and ``overwrite`` is false.
        OSError: If the disk refuses.
    """
    start = time.perf_counter()
    reference = reference_of(
        fitted.model,
        data,
        config.draws,
        config.importance_samples,
        progress,
        config.evidence_images,
    )
    common = checkpoint_facts(
        fitted.model, data, reference, config.draws, config.importance_samples
    )
    facts = {
        "command": command,
        "card": {"title": config.title or path.name, "description": config.description},
        "config": asdict(config),
        **common,
        "training": {
            "seconds": round(fitted.seconds, 1),
            "reference_seconds": round(time.perf_counter() - start, 1),
            "best_step": fitted.best_step,
            "steps": fitted.steps,
            "device": fitted.device,
            "arithmetic": fitted.arithmetic,
            "processes": fitted.processes,
            **({"departures": fitted.departures} if fitted.departures else {}),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "parameters": sum(weight.numel() for weight in fitted.model.parameters()),
        },
    }
    checkpoint.write(path, fitted.model, reference, fitted.history, facts, overwrite)
    return common["metrics"]
