"""``make bench NAME=bound``: the importance-weighted bound against a plain batched loop."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vae.model.vae import VAE

TEXT = "L_k of a 784-200-200-50 model (Burda et al. 2016), images a second and memory."


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        importance_samples: The k of the bound.
        images: Images in one turn.
        turns: Turns of each loop; they alternate, and medians are printed.
        threads: Threads of torch; as many as it likes when 0.
        json: Print one JSON document instead of a table.
    """

    importance_samples: int = 5_000
    images: int = 32
    turns: int = 5
    threads: int = 0
    json: bool = False


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    import numpy as np
    import torch

    from vae.data.spec import ImageSpec
    from vae.model.config import ModelConfig
    from vae.model.vae import VAE
    from vae.scoring.evaluation import statistics_of

    flags = tyro.cli(_Arguments, prog="bench bound", description=TEXT, args=arguments)
    k = flags.importance_samples
    if min(k, flags.images, flags.turns) < 1 or flags.threads < 0:
        sys.exit("importance-samples, images and turns must be at least 1.")
    if flags.threads:
        torch.set_num_threads(flags.threads)
    image = ImageSpec(channels=1, height=28, width=28, background=0.0)
    # fmt: off
    config = ModelConfig(
        image, latent_dim=50, hidden=(200, 200), activation="tanh", likelihood="bernoulli",
        binarize="dynamic",
    )
    # fmt: on
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(config).eval().requires_grad_(False)
    levels = np.random.default_rng(0).integers(0, 256, (flags.images, *image.shape), np.uint8)

    def ours(count: int = flags.images, draws: int = 64, k: int = k) -> None:
        statistics_of(model, lambda rows: levels[rows], count, draws, k, progress=False)

    # Loads what torch loads on its first use, which is no memory of ours.
    ours(1, 1, 1)
    before = _resident()
    ours()
    memory = _peak() - before
    naive_bounds(model, levels[:1], k)
    seconds: dict[str, list[float]] = {"ours": [], "naive": []}
    busy: dict[str, list[float]] = {"ours": [], "naive": []}
    for _ in range(flags.turns):
        for name, loop in (("ours", ours), ("naive", lambda: naive_bounds(model, levels, k))):
            start, start_busy = time.perf_counter(), time.process_time()
            loop()
            seconds[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - start_busy)
    # Processor time tells what a quiet machine would do where others share this one.
    cost = {name: statistics.median(times) / flags.images for name, times in busy.items()}
    rates = {name: flags.images / statistics.median(times) for name, times in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["naive"], strict=True)]
    result = {
        "importance_samples": k,
        "threads": torch.get_num_threads(),
        "images_per_second": rates["ours"],
        "naive_images_per_second": rates["naive"],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "processor_seconds_per_image": cost["ours"],
        "naive_processor_seconds_per_image": cost["naive"],
        "minutes_for_10000": 10_000 / rates["ours"] / 60,
        "memory_megabytes": None if math.isnan(memory) else memory,
    }
    if flags.json:
        print(json.dumps(result, indent=1))
        return
    print(f"L_{k} of a 784-200-200-50 model, {result['threads']} threads, float32")
    print(f"  vae                       {rates['ours']:>8.1f} images/s")
    print(f"  plain batched loop        {rates['naive']:>8.1f} images/s")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"  ratio                     {result['ratio']:>8.2f} ({spread} in {flags.turns} turns)")
    both = f"{1e3 * cost['ours']:>8.0f} ms an image ({1e3 * cost['naive']:.0f} ms the plain loop)"
    print(f"  processor time            {both}")
    print(f"  10,000 images take        {result['minutes_for_10000']:>8.1f} minutes")
    if result["memory_megabytes"] is not None:
        print(f"  memory above the model    {memory:>8.0f} MB")


def naive_bounds(model: VAE, levels: np.ndarray, k: int, rows: int = 5_000) -> Tensor:
    """The bound as it is usually written: float32, draws in batches, one image after another.

    Args:
        model: A Bernoulli model of binary pixels.
        levels: The images, with shape (B, C, H, W).
        k: The number of draws.
        rows: Draws decoded at once.

    Returns:
        The bounds in nats, with shape (B,).
    """
    import torch
    import torch.nn.functional as F
    from torch.distributions import Normal

    bounds = []
    with torch.inference_mode():
        for x in model.observe(levels):
            q = model.encode(x[None]).base_dist
            prior = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
            weights = []
            for count in [rows] * (k // rows) + ([k % rows] if k % rows else []):
                z = q.mean + q.stddev * torch.randn(count, model.config.latent_dim)
                logits = model.decode(z).base_dist.logits.flatten(1)
                target = x.flatten().expand_as(logits)
                distortion = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
                ratio = (prior.log_prob(z) - q.log_prob(z)).sum(-1)
                weights.append(ratio - distortion.sum(-1))
            bounds.append(torch.logsumexp(torch.cat(weights), 0) - math.log(k))
    return torch.stack(bounds)


def _resident() -> float:
    """The memory of this process now in MB, NaN where the system doesn't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _peak() -> float:
    """The most memory that this process ever held in MB, NaN where the system doesn't tell."""
    try:
        import resource
    except ImportError:
        return math.nan
    # In kilobytes, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
