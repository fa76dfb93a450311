"""Finds the command and runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from vae.cli import alarms, app, calibrate, check, data, evaluate, importing, score, train
from vae.cli.program import EXIT_USAGE, Stop

__all__ = ["main"]

_COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "train": (train.TEXT, train.train),
    "evaluate": (evaluate.TEXT, evaluate.evaluate),
    "score": (score.TEXT, score.score),
    "calibrate": (calibrate.TEXT, calibrate.calibrate),
    "alarms": (alarms.TEXT, alarms.alarms),
    "check": (check.TEXT, check.check),
    "import": (importing.TEXT, importing.import_model),
    "app": (app.TEXT, app.app),
    "data": (data.TEXT, data.data),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words after ``python -m vae``; those of the process when not given.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_USAGE
    name, *rest = arguments
    if name not in _COMMANDS:
        print(
            f"vae: there is no command {name!r}; choose one of: {', '.join(_COMMANDS)}.",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        return _COMMANDS[name][1](rest)
    except Stop as stop:
        print(f"vae {name}: {stop}", file=sys.stderr)
        return stop.code
    except BrokenPipeError:
        # The reader of a pipe left early (`| head`); that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"vae {name}: interrupted; nothing was left half-written.", file=sys.stderr)
        return 130


def _overview() -> str:
    lines = [f"  {name:<9} {text}" for name, (text, _) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m vae COMMAND ...",
            "",
            "Elboscope: look inside a VAE, one sample at a time.",
            "",
            *lines,
            "",
            "python -m vae COMMAND --help explains each.",
        ]
    )
