"""A process that only decodes: a :class:`Decoder` comes first, then paths in, levels out.

It ends when its input does. Run by :mod:`vae.data.bulk`, whose words alone it takes: they are
pickled, between two halves of one program.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import BinaryIO

__all__ = ["serve"]


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers each list of paths until there are no more."""
    decoder = pickle.load(source)
    while True:
        try:
            paths = pickle.load(source)
        except EOFError:
            return
        pickle.dump(decoder(paths), sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not get among the results.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, results)
    except BrokenPipeError:
        os._exit(0)  # nobody is there to be told
