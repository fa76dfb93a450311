r"""Many image files to levels, in parallel.

A small image costs some 50 microseconds in Pillow, which holds the interpreter's lock meanwhile:
threads lose, processes don't. They are started by *spawn* and load no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np

from vae.data.images.adaptation import Adaptation, is_rounded, preprocess
from vae.data.images.decoding import ImageRefused, Limits, Raster, read_plain
from vae.data.remote import is_url, read_urls
from vae.data.spec import ImageSpec

__all__ = [
    "Decoded",
    "Decoder",
    "cores",
    "decoded",
    "first_words",
    "joined",
    "read_file",
    "steps_told",
    "usual_workers",
]


# A pipe would keep a reader waiting for ever.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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

    def __call__(self, paths: Iterable[str]) -> Decoded:
        """Reads and decodes files one after the other."""
        stamps: list[tuple[int, int]] = []

        def contents() -> Iterator[bytes | ImageRefused]:
            for content, stamp in _read_files(paths, self.limits):
                stamps.append(stamp)
                yield content

        return self.decode(contents())._replace(stamps=stamps)

    def decode(self, contents: Iterable[bytes | ImageRefused]) -> Decoded:
        """Decodes the contents of files, or says why there are none; knows no stamps."""
        levels: list[np.ndarray] = []
        refused: dict[int, tuple[str, str]] = {}
        steps: Counter[str] = Counter()
        for position, content in enumerate(contents):
            try:
                if isinstance(content, ImageRefused):
                    raise content
                one, words = self.levels_of(content)
                levels.append(one)
                steps.update(words)
            except ImageRefused as error:
                refused[position] = (error.code, error.message)
        return Decoded(_stack(levels, self.spec), refused, [], steps)

    def levels_of(self, content: bytes) -> tuple[np.ndarray, set[str]]:
        """One file's levels (C, H, W), and the first words of the steps that it took.

        Raises:
            ImageRefused: If the file cannot be used.
        """
        read = read_plain(content, self.limits, self._untouched)
        if isinstance(read, np.ndarray):
            if self.spec.levels == 256:
                return read.transpose(2, 0, 1), set()
            levels, rounded = self._by_shade
            return levels[read].transpose(2, 0, 1), {"Rounded"} if rounded[read].any() else set()
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
    def _by_shade(self) -> tuple[np.ndarray, np.ndarray]:
        """The level of each 8-bit shade, and whether it stands for another shade."""
        shades = np.arange(256, dtype=np.float32) / np.float32(255)
        levels = self.spec.to_levels(shades)
        return levels, is_rounded(shades, levels, self.spec)


def _stack(levels: list[np.ndarray], spec: ImageSpec) -> np.ndarray:
    return np.stack(levels) if levels else np.empty((0, *spec.shape), np.uint8)


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


def _read_files(
    paths: Iterable[str], limits: Limits
) -> Iterator[tuple[bytes | ImageRefused, tuple[int, int]]]:
    for remote, some in groupby(paths, is_url):
        if remote:
            # The stamp of what lies at an address is known from the listing.
            for one in read_urls(list(some), limits.bytes + 1):
                yield _unread(one) if isinstance(one, OSError) else one, (-1, -1)
            continue
        for path in some:
            try:
                yield read_file(path, limits)
            except ImageRefused as error:
                yield error, (-1, -1)


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
        raise _unread(error) from error


def _unread(error: OSError) -> ImageRefused:
    reason = error.strerror or "it is gone"
    return ImageRefused("E-FILE-01", f"The file cannot be read: {reason}.")


_Submit = Callable[[Sequence[str]], Future[Decoded]]


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
        workers: The number of processes; 0 decodes in this one. A script that is to start
            processes guards its main part by ``if __name__ == "__main__"``.
        ahead: The most chunks that are taken before their turn.

    Yields:
        An iterator of one result a chunk. A file that ends a process, say by a fault in a
        decoder, is refused alone.

    Raises:
        RuntimeError: If processes end as soon as they start.
    """
    if not workers:
        yield map(decoder, chunks)
        return
    with _processes(decoder, workers) as submit:
        yield _in_order(decoder, chunks, submit, ahead)


def _in_order(
    decoder: Decoder, chunks: Iterable[Sequence[str]], submit: _Submit, ahead: int
) -> Iterator[Decoded]:
    waiting: deque[tuple[Sequence[str], Future[Decoded]]] = deque()
    for paths in chunks:
        waiting.append((paths, submit(paths)))
        if len(waiting) > ahead:
            yield _result(decoder, *waiting.popleft())
    while waiting:
        yield _result(decoder, *waiting.popleft())


def _result(decoder: Decoder, paths: Sequence[str], future: Future[Decoded]) -> Decoded:
    try:
        return future.result()
    except BrokenProcessPool:  # by one of these files or of others that were under way
        return _one_by_one(decoder, paths)


def _one_by_one(decoder: Decoder, paths: Sequence[str]) -> Decoded:
    """Decodes each file by itself, so that one that ends its process costs no other."""
    with _processes(decoder, 1) as submit:
        try:
            submit([]).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "Processes that decode images end as soon as they start; a script guards its main "
                'part by `if __name__ == "__main__":`.'
            ) from error
        parts = []
        for path in paths:
            try:
                parts.append(submit([path]).result())
            except BrokenProcessPool:
                sentence = "The file ended the program that decodes images; leave it out."
                refused = {0: ("E-FILE-02", sentence)}
                parts.append(Decoded(_stack([], decoder.spec), refused, [(-1, -1)], Counter()))
        return joined(parts)


def joined(parts: Sequence[Decoded]) -> Decoded:
    """What became of the files of several parts, at least one, as of one."""
    refused: dict[int, tuple[str, str]] = {}
    stamps: list[tuple[int, int]] = []
    for part in parts:
        refused |= {len(stamps) + i: reason for i, reason in part.refused.items()}
        stamps += part.stamps
    levels = np.concatenate([part.levels for part in parts])
    return Decoded(levels, refused, stamps, sum((part.steps for part in parts), Counter()))


@contextmanager
def _processes(decoder: Decoder, workers: int) -> Iterator[_Submit]:
    """Starts processes that decode, and others where one has ended.

    At the end, what they are at is dropped after the next file.

    Yields:
        What hands them files to decode.
    """
    spawn = multiprocessing.get_context("spawn")
    closing = spawn.RawValue("b", 0)  # without a lock, with which a process might be killed
    with ExitStack() as pools:

        def start() -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(workers, spawn, _begin, (decoder, closing))
            return pools.enter_context(pool)

        def submit(paths: Sequence[str]) -> Future[Decoded]:
            nonlocal pool
            try:
                return pool.submit(_decode, paths)
            except BrokenProcessPool:
                pool = start()
                return pool.submit(_decode, paths)

        pool = start()
        try:
            yield submit
        finally:
            closing.value = 1
            pool.shutdown(cancel_futures=True)


# --- In a process that decodes ----------------------------------------------------------------


def _begin(decoder: Decoder, closing: Any) -> None:  # noqa: ANN401  (a ctypes value)
    global _decoder, _closing
    _decoder, _closing = decoder, closing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's business
    warnings.simplefilter("ignore")  # what Pillow warns of is either refused or harmless
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool whose process was killed would wait for work for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _decode(paths: Sequence[str]) -> Decoded:
    return _decoder(takewhile(lambda _: not _closing.value, paths))
