"""Writes the tables of checkpoints/README.md from the manifests: python -m tests.checkpoint_table

Everything between the two markers is generated; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae.figures.frame import adding_up

__all__ = ["BEGIN", "END", "README", "manifests", "tables", "without_times", "written"]

README = Path(__file__).parents[1] / "checkpoints" / "README.md"
BEGIN = "<!-- tables: made by tests/checkpoint_table.py, not by hand -->"
END = "<!-- end of tables -->"

_NONE = "–"


def manifests(folder: Path = README.parent) -> dict[str, dict[str, Any]]:
    """The manifests of a folder of checkpoints, by name; a folder without one is no checkpoint."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*/manifest.json"))
    }


def tables(named: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables, of the numbers and of how they came about, as Markdown."""
    numbers = [
        (
            f"`{name}`",
            _nats(one["metrics"], "elbo"),
            *_terms(one["metrics"]),
            f"{_nats(one['metrics'], 'iwae_bound')}, k = {one['metrics']['importance_samples']:,}",
            _nats(one["metrics"], "log_evidence"),
            f"{one['metrics']['active_units']} of {one['model']['latent_dim']}",
            _number(one["metrics"]["bits_per_dim"], 3),
        )
        for name, one in named.items()
    ]
    origins = [
        (
            f"`{name}`",
            f"`{one['command']}`",
            f"{one['training']['seconds']:,.0f} s + {one['training']['reference_seconds']:,.0f} s",
            _device(one["training"]),
            f"{one['data']['name']}: "
            + " / ".join(f"{split['images']:,}" for split in one["data"]["splits"].values()),
            _size(one["files"]),
        )
        for name, one in named.items()
    ]
    heads = (
        ("model", "ELBO", "rate (KL)", "distortion", "bound L_k", "log p(x), exact")
        + ("active units", "bits/dim"),
        ("model", "command", "training + reference set", "device")
        + ("data: train / validation / calibration", "files"),
    )
    parts = (
        "### Numbers",
        _table(heads[0], numbers),
        "### How they were made",
        _table(heads[1], origins),
    )
    return "\n\n".join(parts)


def without_times(text: str) -> str:
    """The same text with wall times left out: they belong to a machine, not to a model."""
    return re.sub(r"[\d,]+ s\b", "… s", text)


def written(text: str) -> str:
    """What a README holds between the markers.

    Raises:
        ValueError: If a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"checkpoints/README.md has lost a marker: {BEGIN} or {END}")
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> int:
    """Rewrites the tables and says whether they changed."""
    text = README.read_text(encoding="utf-8")
    old, new = written(text), tables(manifests())
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n\n{new}\n\n{END}{after}", encoding="utf-8")
    print("unchanged" if old == new else f"wrote {README}")
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|".join("---" for _ in head)
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _nats(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return _NONE
    return f"{_number(metrics[name], 2)} ± {metrics[f'{name}_se']:.2f}"


def _terms(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Rate and distortion, which add up to minus the ELBO as they are shown."""
    names = ("rate", "distortion")
    shown = adding_up([metrics[name] for name in names], 2)
    for name, value in zip(names, shown, strict=True):
        yield _nats(metrics | {name: value}, name)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return _NONE
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _device(training: Mapping[str, Any]) -> str:
    if training["device"] != "cpu":
        return training["device"]
    threads = training["threads"]
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def _size(files: Mapping[str, Mapping[str, Any]]) -> str:
    return f"{sum(file['bytes'] for file in files.values()) / 1e6:.2f} MB"


if __name__ == "__main__":
    sys.exit(main())
