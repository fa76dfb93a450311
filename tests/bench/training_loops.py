r"""How fast the training loop is, against two loops with the same network.

- *bare*: tensors in memory, the same arithmetic, averaged weights and clipping, and nothing else:
  what a loop could reach. The same means float32; our loop's other arithmetics are measured
  against it too.
- *conventional*: torchvision's MNIST class and transforms through a ``DataLoader``, a number read
  back each step, as is often written. It has neither averaged weights nor clipping.

Loops are run in turns in one process, a chunk of steps each, because a shared machine's speed
drifts; the ratio of a turn's chunks is what counts, not their seconds. Where others share the
machine, the processor's time tells more than the clock's, but for the conventional loop: that
makes its batches on one core, while the other waits. The images are noise, made on the spot:
arithmetic doesn't care what they show.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.data.sets.image_data import ImageData, Splits
from vae.data.spec import ImageSpec
from vae.elbo.terms import standard_normal_kl
from vae.model.vae import VAE
from vae.training.arithmetic import Arithmetic, choose_device, compiled
from vae.training.config import TrainConfig
from vae.training.fit import train_step
from vae.training.loss.training_loss import TrainingLoss
from vae.training.run.monitor import Watch
from vae.training.state.run_state import RunState

__all__ = ["CASES", "Ratio", "compare_loops"]

# Kingma & Welling's network as in many examples, and Burgess et al.'s for 32x32 pixels.
CASES: dict[str, TrainConfig] = {
    "mlp": TrainConfig(
        hidden=(400,), latent_dim=20, activation="relu", likelihood="bernoulli",
        binarize="threshold", batch_size=128, ema=0.999,
    ),
    "conv": TrainConfig(
        network="conv", channels=(32, 32, 32), hidden=(256, 256), latent_dim=10,
        activation="relu", likelihood="bernoulli", binarize="threshold", batch_size=64, ema=0.999,
    ),
}  # fmt: skip
_SIDES = {"mlp": 28, "conv": 32}


class Ratio(NamedTuple):
    """One loop against another.

    Attributes:
        case: The network.
        loop: The loop.
        against: The other loop.
        median: The median ratio of images per second over all turns.
        low: The lower quartile.
        high: The upper quartile.
        by_processor: The median ratio of images per second of processor time.
        images_per_second: The loop's own median, which belongs to this machine at this hour.
    """

    case: str
    loop: str
    against: str
    median: float
    low: float
    high: float
    by_processor: float
    images_per_second: float


def compare_loops(
    case: str,
    turns: int = 15,
    steps: int = 60,
    device: str = "auto",
    fast: bool = True,
    batch: int | None = None,
) -> list[Ratio]:
    """Runs the loops in turns.

    Args:
        case: One of ``CASES``.
        turns: The number of turns.
        steps: The steps of a chunk; the conventional loop takes a quarter of them.
        device: Where to train.
        fast: Whether to run our loop with bfloat16 and with compilation too.
        batch: Images a step, in every loop; the case's own number when not given.

    Returns:
        The ratios of our loop to the others.

    Raises:
        ValueError: If a number is too small.
    """
    if turns < 3 or steps < 4:
        raise ValueError(f"at least 3 turns of 4 steps are needed, not {turns} of {steps}.")
    if batch is not None and batch < 1:
        raise ValueError(f"a batch holds at least 1 image, not {batch}.")
    config = replace(CASES[case], device=device)
    if batch is not None:
        config = replace(config, batch_size=batch)
    place = choose_device(device)
    data = _noise(_SIDES[case])
    loops: dict[str, tuple[Callable[[int], None], int]] = {
        "ours, float32": (_ours(config, data, place, Arithmetic()), steps),
        "bare": (_bare(config, data, place), steps),
        "conventional": (_conventional(config, data, place), max(1, steps // 4)),
    }
    if fast:
        for kind in (Arithmetic(False, True), Arithmetic(True), Arithmetic(True, True)):
            loops[f"ours, {kind.name}"] = (_ours(config, data, place, kind), steps)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for turn in range(turns + 1):
        for name, (loop, count) in loops.items():
            start, busy = time.perf_counter(), time.process_time()
            loop(count)
            _finish(place)
            if turn:  # the first turn warms up
                spent = time.perf_counter() - start, time.process_time() - busy
                rates[name].append(tuple(count * config.batch_size / one for one in spent))
    return [
        _ratio(case, name, other, rates)
        for name in loops
        for other in ("bare", "conventional")
        if name.startswith("ours")
    ]


def _ratio(case: str, loop: str, other: str, rates: dict[str, list[tuple[float, float]]]) -> Ratio:
    pairs = list(zip(rates[loop], rates[other], strict=True))
    low, median, high = statistics.quantiles((mine[0] / its[0] for mine, its in pairs), n=4)
    busy = statistics.median(mine[1] / its[1] for mine, its in pairs)
    rate = statistics.median(mine[0] for mine in rates[loop])
    return Ratio(case, loop, other, median, low, high, busy, rate)


def _noise(side: int) -> ImageData:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (10_000, 1, side, side), dtype=np.uint8)
    none = np.empty(0, np.int64)
    return ImageData(
        name="noise",
        spec=ImageSpec(1, side, side),
        splits=Splits(np.arange(len(levels)), none, none),
        read=lambda indices: levels[indices],
        labels_of=lambda indices: np.full(len(indices), -1),
        label_names=(),
    )


def _ours(
    config: TrainConfig, data: ImageData, device: torch.device, arithmetic: Arithmetic
) -> Callable[[int], None]:
    state = RunState(config, data, device)
    loss = TrainingLoss(state.model, config, len(data.splits.train))
    step_of, arithmetic = compiled(state, loss, arithmetic, print)
    watch = Watch(progress=False)
    watch.start(state, config.batch_size, {})

    def run(steps: int) -> None:
        for _ in range(steps):
            train_step(state, step_of, arithmetic)
            watch.look(state)

    return run


def _bare(config: TrainConfig, data: ImageData, device: torch.device) -> Callable[[int], None]:
    model = VAE(config.model(data.spec)).to(device)
    images = (torch.from_numpy(data.read(data.splits.train)) >= 128).float().to(device)
    weights = list(model.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=device.type != "mps")

    def run(steps: int) -> None:
        for _ in range(steps):
            x = images[torch.randint(len(images), (config.batch_size,), device=device)]
            mu, sigma, logits = _forward(model, x)
            loss = _negative_elbo(mu, sigma, logits, x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, config.clip)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - config.ema)

    return run


def _conventional(
    config: TrainConfig, data: ImageData, device: torch.device
) -> Callable[[int], None]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Lambda(_black_or_white)])
    with TemporaryDirectory() as root:
        _write_mnist(Path(root) / "MNIST" / "raw", data.read(data.splits.train)[:, 0])
        # Its images are in memory from here on.
        images = datasets.MNIST(root, transform=transform)
    model = VAE(config.model(data.spec)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(images, batch_size=config.batch_size, shuffle=True)
    batches = iter(loader)

    def run(steps: int) -> None:
        nonlocal batches
        total = 0.0
        for _ in range(steps):
            try:
                x, _ = next(batches)
            except StopIteration:
                batches = iter(loader)
                x, _ = next(batches)
            x = x.to(device)
            mu, sigma, logits = _forward(model, x)
            optimizer.zero_grad()
            probabilities = torch.sigmoid(logits)
            error = F.binary_cross_entropy(probabilities, x, reduction="sum")
            loss = error + standard_normal_kl(mu, 2 * sigma.log()).sum()
            loss.backward()
            total += loss.item()
            optimizer.step()

    return run


def _forward(model: VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    posterior = model.encode(x)
    mu, sigma = posterior.mean, posterior.stddev
    return mu, sigma, model.decoder.layers(mu + sigma * torch.randn_like(mu))


def _negative_elbo(mu: Tensor, sigma: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (error + standard_normal_kl(mu, 2 * sigma.log()).sum()) / len(x)


def _black_or_white(x: Tensor) -> Tensor:
    return (x >= 0.5).float()


def _write_mnist(folder: Path, levels: np.ndarray) -> None:
    """Writes images (N, H, W) as the four files that torchvision's class wants to find."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, values in (("images", levels), ("labels", np.zeros(len(levels), np.uint8))):
            # Two zeros, the code of bytes, the number of axes, and their lengths.
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            name = f"{part}-{kind}-idx{values.ndim}-ubyte"
            (folder / name).write_bytes(head + values.tobytes())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
