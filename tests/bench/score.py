"""``make bench NAME=score``: folder scoring and scoring in memory against plain loops."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tyro

if TYPE_CHECKING:
    from vae.store.checkpoint import Checkpoint

TEXT = "Folder scoring against a DataLoader loop, and scoring in memory against a bare forward."

_NOTE = (
    " Variants take turns in one process, and each ratio is the median over rounds: other load on"
    " the machine moves absolute rates by a factor, ratios by less, and work counted in CPU time"
    " least. Start-up is left out: clocks run from the first thousand files on."
)
_WHAT_EACH_DOES = """\
  Each gives every image its own ELBO. DataLoader: ImageFolder, Grayscale, ToTensor, batches of
  128. Decode, then forward: Pillow in a loop, then batches of 128, in one process. Ours also
  checks every file, draws each image's own noise, and keeps rows with p-values that survive an
  interruption.
"""
_WARM = 1024


class Rate(NamedTuple):
    """How fast a variant ran.

    Attributes:
        wall: Images a second, start-up left out.
        cpu: Images a second of all cores' work, start-up included.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class _Arguments:
    """How much to measure.

    Args:
        files: Small PNG files to make and score; from 20,000 on the memory of scoring them is
            compared with that of scoring 10,000.
        draws: Draws an image in the folder benchmark.
        memory_draws: Draws an image in the benchmark in memory.
        images: Images in memory for the MLP; the convolutional model takes an eighth of them.
        workers: Processes that decode; by default as many as the cores allow.
        rounds: Rounds, in each of which every variant runs once.
    """

    files: int = 10_000
    draws: int = 1
    memory_draws: int = 64
    images: int = 1_024
    workers: int | None = None
    rounds: int = 3


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    flags = tyro.cli(_Arguments, prog="bench score", description=TEXT + _NOTE, args=arguments)
    if flags.files < 3 * _WARM or flags.rounds < 1 or flags.draws < 1 or flags.memory_draws < 1:
        sys.exit(f"--files takes at least {3 * _WARM}, the others at least 1.")
    from vae.data.images.many import cores

    print(f"{cores()} cores; rates are images a second; medians of {flags.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="elboscope-bench-") as temporary:
        home = Path(temporary)
        _make_files(home / "images", flags.files)
        _bench_folder(home, flags)
        if flags.files >= 20_000:
            _bench_memory(home, flags.files)
    for name, count in (("digits-10d", flags.images), ("sprites-10d", flags.images // 8)):
        _bench_model(name, max(2, count), flags)


def _make_files(folder: Path, count: int) -> None:
    """Small PNG files of scribbles, 1,000 a folder."""
    import numpy as np

    from vae.data.images.encoding import encode_png

    rng = np.random.default_rng(0)
    for start in range(0, count, 1000):
        part = folder / f"{start // 1000:04d}"
        part.mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            pixels = np.zeros((28, 28), np.uint8)
            row, column = rng.integers(4, 12, 2)
            pixels[row : row + 12, column : column + 8] = rng.integers(0, 256, (12, 8))
            (part / f"{number:07d}.png").write_bytes(encode_png(pixels))


def _bench_folder(home: Path, flags: _Arguments) -> None:
    from vae.data.images.many import usual_workers

    model = _untrained(home, flags.draws)
    images = str(home / "images")
    workers = usual_workers() if flags.workers is None else flags.workers
    variants = {
        "ours": lambda: _ours(model, images, home / "scores.parquet", flags.draws, workers),
        "DataLoader, 0 workers": lambda: _data_loader(model, images, flags.draws, 0),
        "DataLoader, 2 workers": lambda: _data_loader(model, images, flags.draws, 2),
        "decode, then forward": lambda: _one_after_the_other(model, images, flags.draws),
    }
    rates = _take_turns(variants, flags.rounds)
    print(
        f"\nfolder of {flags.files} PNG files of 28×28, MLP 784-400-20, {flags.draws} draw(s), "
        f"rows to Parquet, {workers} decoding process(es)"
    )
    print(_WHAT_EACH_DOES)
    _print_rates(rates)
    _print_ratio(rates, "ours", "DataLoader, 0 workers", "aim 1.4")
    _print_ratio(rates, "ours", "DataLoader, 2 workers", "no aim")
    _print_ratio(rates, "ours", "decode, then forward", "aim 0.85")


def _ours(model: Checkpoint, images: str, out: Path, draws: int, workers: int) -> Iterator[int]:
    from vae.data.images.listing import image_files
    from vae.scoring.files import score_files
    from vae.scoring.parts import Parts, names_digest
    from vae.scoring.scorer import ScoreSettings

    parts, names = Parts(out, {}, model.latent_dim), []
    parts.open(restart=True)
    settings = ScoreSettings(draws=draws)
    for part in score_files(model, image_files([images]), settings, workers=workers):
        parts.put(part)
        names.append(names_digest(part.files))
        yield len(part.rows)
    parts.finish(names)
    yield 0


def _data_loader(model: Checkpoint, images: str, draws: int, workers: int) -> Iterator[int]:
    """What one writes without thinking of speed."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    loader = torch.utils.data.DataLoader(
        ImageFolder(images, steps), batch_size=128, num_workers=workers
    )
    found = []
    for x, _ in loader:
        found.append(_bare_elbo(model, x, draws))
        yield len(x)
    torch.cat(found)


def _one_after_the_other(model: Checkpoint, images: str, draws: int) -> Iterator[int]:
    import numpy as np
    import torch
    from PIL import Image

    from vae.data.images.listing import walk_images

    found, paths = [], list(walk_images(images))
    for start in range(0, len(paths), _WARM):
        pixels = []
        for path in paths[start : start + _WARM]:
            with Image.open(path) as image:
                pixels.append(np.asarray(image))
        x = torch.from_numpy(np.stack(pixels)[:, None]).float() / 255
        found += [_bare_elbo(model, part, draws) for part in x.split(128)]
        yield len(x)
    torch.cat(found)


def _bare_elbo(model: Checkpoint, x, draws: int):  # noqa: ANN001, ANN202  (tensors)
    """The ELBO (B,) as one writes it: float32, noise by torch, a pass of the decoder a draw."""
    import torch

    from vae.elbo.terms import kl_per_dim, log_likelihood

    with torch.inference_mode():
        q = model.model.encode(x)
        mean, spread = q.mean, q.stddev
        total = torch.zeros(len(x))
        for _ in range(draws):
            z = mean + spread * torch.randn_like(mean)
            total += log_likelihood(model.model.decode(z), x, dtype=torch.float32)
        return total / draws - kl_per_dim(q).sum(-1)


def _bench_model(name: str, count: int, flags: _Arguments) -> None:
    import numpy as np
    import torch

    from vae.cli.program import open_checkpoint
    from vae.data.sets.datasets import open_data
    from vae.scoring.scores import score_levels

    model = open_checkpoint(name)
    data = open_data(model.card.data.name)
    indices = np.resize(data.splits.validation, count)
    levels = data.read(indices)
    x = torch.from_numpy(model.config.image.from_levels(levels))

    def ours() -> Iterator[int]:
        score_levels(model, levels, draws=flags.memory_draws, evidence=False)
        yield count

    def bare() -> Iterator[int]:
        for part in x.split(128):
            _bare_elbo(model, part, flags.memory_draws).tolist()
        yield count

    for variant in (ours, bare):  # the first call is slower
        list(variant())
    rates = _take_turns({"ours": ours, "bare forward": bare}, flags.rounds, warm=0)
    print(
        f"\nin memory: {name} ({model.config.network}), {count} images, {flags.memory_draws} draws"
    )
    _print_rates(rates)
    aim = "aim 0.9" if model.config.network == "conv" else "aim 0.7"
    _print_ratio(rates, "ours", "bare forward", aim)


def _bench_memory(home: Path, count: int) -> None:
    """The largest resident set of the whole command, for 10,000 files and for all of them."""
    few = [str(path) for path in sorted((home / "images").iterdir())[:10]]
    peaks = {
        number: _peak(["-m", "vae", "score", "digits-10d", *paths, "--out", str(home / "m.jsonl")])
        for number, paths in ((10_000, few), (count, [str(home / "images")]))
    }
    print("\nmemory of `python -m vae score digits-10d`, largest resident set")
    for number, peak in peaks.items():
        print(f"  {number:>7} files {peak:>9.0f} MB")
    print(f"  ratio {peaks[count] / peaks[10_000]:.3f} (aim at most 1.1)")


def _peak(command: list[str]) -> float:
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, *command], cwd=root, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("scoring the files failed; run it by hand to see why.")
    # Linux counts in KB, macOS in bytes.
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _untrained(home: Path, draws: int) -> Checkpoint:
    """A model of small grey images whose scores cost little beside reading them."""
    import numpy as np
    import torch

    from vae.cli.program import open_checkpoint
    from vae.data.spec import ImageSpec
    from vae.model.config import ModelConfig
    from vae.model.vae import VAE
    from vae.store.checkpoint import Checkpoint
    from vae.store.contents import Reference

    torch.manual_seed(0)
    image = ImageSpec(channels=1, height=28, width=28, levels=256, background=0.0)
    config = ModelConfig(
        image, latent_dim=20, hidden=(400,), likelihood="bernoulli_grey", activation="relu"
    )
    count = 499
    reference = Reference(
        indices=np.arange(count),
        split=np.ones(count, np.uint8),
        labels=np.full(count, -1),
        mu=np.zeros((count, 20)),
        log_variance=np.zeros((count, 20)),
        **dict.fromkeys(
            (
                *("expected_log_likelihood", "elbo", "elbo_se", "elbo_error", "iwae_bound"),
                *("log_evidence", "log_evidence_error"),
            ),
            np.linspace(-600.0, -500.0, count),
        ),
        levels=None,
    )
    card = open_checkpoint("digits-2d").card
    return Checkpoint(
        name="untrained",
        model=VAE(config).eval().requires_grad_(False),
        card=replace(
            card,
            model=config,
            run={},
            data=replace(card.data, name="scribbles"),
            metrics=replace(card.metrics, draws=draws),
        ),
        reference=reference,
        history=(),
        path=home,
    )


def _take_turns(
    variants: dict[str, Callable[[], Iterable[int]]], rounds: int, warm: int = _WARM
) -> dict[str, list[Rate]]:
    """Images a second and a CPU second of each variant, in each round."""
    rates: dict[str, list[Rate]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            done, begun, start, cpu = 0, time.perf_counter(), 0, sum(os.times()[:4])
            for count in variant():
                done += count
                if not start and warm and done >= warm:
                    begun, start = time.perf_counter(), done
            wall = (done - start) / (time.perf_counter() - begun)
            # Of other processes it is known once they have ended, so with their start.
            spent = max(0.01, sum(os.times()[:4]) - cpu)  # counted in hundredths
            rates[name].append(Rate(wall, done / spent))
    return rates


def _print_rates(rates: dict[str, list[Rate]]) -> None:
    for name, values in rates.items():
        walls = [rate.wall for rate in values]
        cpu = statistics.median(rate.cpu for rate in values)
        middle = statistics.median(walls)
        spread = f"({min(walls):.0f} to {max(walls):.0f})"
        print(f"  {name:<24}{middle:>10.0f} {spread:<20}{cpu:>10.0f} a CPU second")


def _print_ratio(rates: dict[str, list[Rate]], ours: str, other: str, aim: str) -> None:
    pairs = list(zip(rates[ours], rates[other], strict=True))
    wall = statistics.median(mine.wall / its.wall for mine, its in pairs)
    cpu = statistics.median(mine.cpu / its.cpu for mine, its in pairs)
    print(f"  {ours} / {other}: {wall:.2f} ({aim}); by CPU time {cpu:.2f}")
