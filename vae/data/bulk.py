r"""Many image files to levels, by as many processes as pay.

A small image costs some 25 microseconds in Pillow and holds the interpreter's lock meanwhile, so
threads lose; processes that only decode don't. They are programs of their own rather than forks:
nothing is copied from a process whose threads have started, none of them loads torch, a script
needs no guard around its main part, and each ends by itself when its pipe closes, however its
parent ended.
"""

from __future__ import annotations

import os
import pickle
import queue
import stat
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae.data.adaptation import Adaptation, is_rounded, preprocess
from vae.data.decoding import ImageRefused, Limits, Raster, read_plain
from vae.data.spec import ImageSpec

__all__ = [
    "Decoded",
    "Decoder",
    "cores",
    "decoded",
    "first_words",
    "read_file",
    "steps_told",
    "usual_workers",
]


# A pipe would keep a reader waiting for ever.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NOTHING: frozenset[str] = frozenset()
_SHADES = np.arange(256, dtype=np.float32) / np.float32(255)


class Decoded(NamedTuple):
    r"""What became of some files.

    Attributes:
        levels: The levels of those that could be used, ``uint8``, :math:`(B, C, H, W)`.
        refused: Why the others could not: by position among the files, code and sentence.
        stamps: Each file's size in bytes and time of change in ns; (-1, -1) where unknown.
        steps: How many images each kind of step was done to, by its first word.
    """

    levels: np.ndarray
    refused: dict[int, tuple[str, str]]
    stamps: list[tuple[int, int]]
    steps: Counter[str]


@dataclass(frozen=True)
class Decoder:
    """Turns image files into a model's levels.

    Args:
        spec: The images of the model.
        adaptation: How an image that isn't of the model's size is brought to it.
        limits: What is refused before it is decoded.
        data: The name of the model's data set, as :func:`preprocess` wants it.
        trim: Cuts a decoded image first; a function of a module, so that other processes find it.
    """

    spec: ImageSpec
    adaptation: Adaptation = field(default_factory=Adaptation)
    limits: Limits = field(default_factory=Limits)
    data: str = ""
    trim: Callable[[Raster], Raster] | None = None

    def __call__(self, paths: Sequence[str]) -> Decoded:
        """Decodes files one after the other."""
        levels, count = np.empty((len(paths), *self.spec.shape), np.uint8), 0
        refused, stamps, steps = {}, [], Counter()
        for position, path in enumerate(paths):
            try:
                content, stamp = read_file(path, self.limits)
                stamps.append(stamp)
                levels[count], words = self.levels_of(content)
                count += 1
                if words:
                    steps.update(words)
            except ImageRefused as error:
                if len(stamps) == position:
                    stamps.append((-1, -1))
                refused[position] = (error.code, error.message)
        return Decoded(levels[:count], refused, stamps, steps)

    def levels_of(self, content: bytes) -> tuple[np.ndarray, Set[str]]:
        """One file's levels (C, H, W), and the first words of the steps that it took.

        Raises:
            ImageRefused: If the file cannot be used.
        """
        read = read_plain(content, self.limits, self._untouched)
        if isinstance(read, np.ndarray):
            rounded = self._is_rounded is not None and self._is_rounded[read].any()
            levels = read if self.spec.levels == 256 else self._level_of[read]
            return levels.transpose(2, 0, 1), {"Rounded"} if rounded else _NOTHING
        if self.trim is not None:
            read = self.trim(read)
        prepared = preprocess(read, self.spec, self.adaptation, self.data)
        return prepared.levels, first_words((*read.notes, *prepared.steps))

    @cached_property
    def _untouched(self) -> tuple[int, int, int] | None:
        """The shape (h, w, c) of a file to which nothing is done."""
        if self.trim is not None or "yes" in (self.adaptation.invert, self.adaptation.crop):
            return None
        return (self.spec.height, self.spec.width, self.spec.channels)

    @cached_property
    def _level_of(self) -> np.ndarray:
        return self.spec.to_levels(_SHADES)

    @cached_property
    def _is_rounded(self) -> np.ndarray | None:
        rounded = is_rounded(_SHADES, self._level_of, self.spec)
        return rounded if rounded.any() else None


def steps_told(steps: Mapping[str, int]) -> str:
    """Counts of steps as one phrase; empty where nothing was done."""
    hints = {
        "Unscaled": " (16-bit files whose greys have fewer bits; --bits scales them)",
        "Padded": " (to other proportions; see --fit)",
    }
    return ", ".join(
        f"{word.lower()} {n:,}{hints.get(word, '')}" for word, n in sorted(steps.items())
    )


def first_words(steps: Iterable[str]) -> set[str]:
    """What was done, in a word for each step."""
    return {step.split()[0].rstrip(",:") for step in steps}


def read_file(path: str, limits: Limits) -> tuple[bytes, tuple[int, int]]:
    """A file's bytes, no more of them than a refusal needs, and its size and time of change.

    Raises:
        ImageRefused: If it cannot be read, or is no file.
    """
    try:
        descriptor = os.open(path, _OPEN)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise ImageRefused("E-FILE-01", "The folder cannot be read; see who may read it.")
            if not stat.S_ISREG(status.st_mode):
                raise ImageRefused("E-FILE-01", "It is not a file; name files and folders only.")
            stamp, most = (status.st_size, status.st_mtime_ns), limits.bytes + 1
            content = os.read(descriptor, min(most, status.st_size + 1))
            if len(content) != status.st_size:
                # One read is all of a small file; a large one, or one that grows, may take more.
                while len(content) < most and (more := os.read(descriptor, most - len(content))):
                    content += more
            return content, stamp
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or "it is gone"
        raise ImageRefused("E-FILE-01", f"The file cannot be read: {reason}.") from error


def cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system tells
        return os.cpu_count() or 1


def usual_workers(processes: int = 1) -> int:
    """How many decoding processes pay: what the scoring ones leave of the cores, at most 8."""
    return max(0, min(8, cores() // processes - 1))


@contextmanager
def decoded(
    decoder: Decoder, chunks: Iterable[Sequence[str]], workers: int, ahead: int = 4
) -> Iterator[Iterator[Decoded]]:
    """Decodes chunks of files, in order, ahead of who takes them.

    Args:
        decoder: What to do with a file.
        chunks: The paths of each chunk.
        workers: The number of processes; 0 decodes in this one.
        ahead: The most chunks that are taken before their turn.

    Yields:
        An iterator of one result a chunk.
    """
    if not workers:
        yield map(decoder, chunks)
        return
    pool = _Pool(decoder, workers)
    try:
        yield pool.map(chunks, ahead)
    finally:
        pool.close()


class _Pool:
    """Decoding processes, each behind a thread that speaks to it."""

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self.decoder, self.workers = decoder, workers
        self.idle: queue.SimpleQueue[subprocess.Popen | None] = queue.SimpleQueue()
        self.processes: list[subprocess.Popen] = []
        for _ in range(workers):
            self.idle.put(None)  # started when it is first needed
        self.threads = ThreadPoolExecutor(workers, "decoder")
        self.closed = False

    def map(self, chunks: Iterable[Sequence[str]], ahead: int) -> Iterator[Decoded]:
        waiting: deque[Future[Decoded]] = deque()
        for chunk in chunks:
            waiting.append(self.threads.submit(self._decode, chunk))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        self.closed = True
        # Ended first, so that a thread which waits for one is let go.
        for process in self.processes:
            process.kill()
        self.threads.shutdown(cancel_futures=True)
        for process in self.processes:
            process.wait()
            process.stdout.close()
            with suppress(OSError):  # what was still to be written has no reader any more
                process.stdin.close()

    def _decode(self, paths: Sequence[str]) -> Decoded:
        result = self._ask(paths)
        if result is not None:
            return result
        if self.closed or len(paths) == 1:
            return self._fatal(len(paths))
        # One of them has ended a process: the others must not suffer for it.
        parts = [self._decode([path]) for path in paths]
        return Decoded(
            np.concatenate([part.levels for part in parts]),
            {i: part.refused[0] for i, part in enumerate(parts) if part.refused},
            [part.stamps[0] for part in parts],
            sum((part.steps for part in parts), Counter()),
        )

    def _ask(self, paths: Sequence[str]) -> Decoded | None:
        process = self.idle.get() or self._start()
        try:
            pickle.dump(paths, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            process.kill()
            process = None
            return None
        finally:
            self.idle.put(process)

    def _start(self) -> subprocess.Popen:
        # -P: a file of the working folder must not pass for a module. What Pillow warns of is
        # either refused or harmless.
        command = [sys.executable, "-P", "-W", "ignore", "-m", "vae.data.worker"]
        home = str(Path(__file__).parents[2])
        search = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # an interrupt from the keyboard is its parent's business
        )
        self.processes.append(process)
        pickle.dump(self.decoder, process.stdin)
        return process

    def _fatal(self, count: int) -> Decoded:
        sentence = "The file ended the program that decodes images; leave it out."
        refused = dict.fromkeys(range(count), ("E-FILE-02", sentence))
        return Decoded(
            np.empty((0, *self.decoder.spec.shape), np.uint8),
            refused,
            [(-1, -1)] * count,
            Counter(),
        )
