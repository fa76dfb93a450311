"""``python -m vae data``."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from vae.cli.program import EXIT_USAGE, Stop, data_missing, parse

__all__ = ["TEXT", "data"]

TEXT = "Download published data sets, or list which of them are here."


@dataclass(frozen=True)
class _Arguments:
    """What to download.

    Args:
        names: The data sets to download; without a name, all are listed.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()


def data(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.datasets import DataMissing
    from vae.data.download import download
    from vae.data.published import SETS

    flags = parse(_Arguments, "data", TEXT, arguments)
    for name in flags.names:
        if name not in SETS:
            valid = ", ".join(SETS)
            raise Stop(
                EXIT_USAGE, f"there is no data set {name!r} to download; choose one of: {valid}."
            )
    try:
        for name in flags.names:
            print(f"{SETS[name].title}: {download(name)}")
    except DataMissing as error:
        raise data_missing(error) from error
    if not flags.names:
        for name, published in SETS.items():
            state = "not here" if published.missing else f"in {published.home}"
            print(f"{name:<14} {published.title:<15} {published.megabytes:>5,} MB  {state}")
    return 0
