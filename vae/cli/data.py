"""``python -m vae data``."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from vae.cli.program import EXIT_USAGE, Stop, data_missing, parse, unwritable

__all__ = ["TEXT", "data"]

TEXT = "Download published data sets, list which of them are here, or make room."


@dataclass(frozen=True)
class _Arguments:
    """What to download.

    Args:
        names: The data sets to download; without a name, all are listed.
        prune: Remove decoded images that no model shows and that newer ones of the same folder
            have replaced; what is removed is listed. Models are looked for where the app does.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    prune: bool = False


def data(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.sets.download import download
    from vae.data.sets.image_data import DataMissing
    from vae.data.sets.published import SETS

    flags = parse(_Arguments, "data", TEXT, arguments)
    for name in flags.names:
        if name not in SETS:
            valid = ", ".join(SETS)
            raise Stop(
                EXIT_USAGE, f"there is no data set {name!r} to download; choose one of: {valid}."
            )
    if flags.prune:
        if flags.names:
            raise Stop(EXIT_USAGE, "--prune takes no data sets; download in a command of its own.")
        _prune()
        return 0
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


def _prune() -> None:
    from vae.data.sets.cache import cache_home, prune
    from vae.store.registry import default_root, scan

    entries = scan(default_root()).values()
    shown = {entry.card.data.digest or "" for entry in entries if entry.card}
    home = cache_home() / "decoded"
    try:
        removed = prune(shown)
    except OSError as error:
        raise unwritable(home, error) from error
    for title, count, size in removed:
        print(f"removed {count:>9,} images of {title}, {size / 1e6:,.1f} MB")
    freed = sum(one.size for one in removed)
    print(f"{freed / 1e6:,.1f} MB freed in {home}")
