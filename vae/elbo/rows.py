r"""The row of a score: one contract for Python, the command line, the screen and its downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vae.model.checkpoint import Checkpoint

__all__ = [
    "FORMATS",
    "ScoreRow",
    "refused_row",
    "to_csv",
    "to_json",
    "to_json_lines",
    "to_parquet",
]


class ScoreRow(NamedTuple):
    """One image's row: the same fields on screen, in JSON, CSV and Python. Unit: nats.

    A refused image has ``error_code`` and ``error`` and no numbers.
    """

    name: str
    elbo: float | None
    elbo_se: float | None
    expected_log_likelihood: float | None
    kl: float | None
    kl_per_dim: tuple[float, ...] | None
    iwae_bound: float | None
    iwae_bound_se: float | None
    log_evidence: float | None
    log_evidence_error: float | None
    bits_per_dim: float | None
    percentile: float | None
    p_value: float | None
    draws: int | None
    importance_samples: int | None
    seed: int
    model: str
    weights_sha256: str
    error_code: str | None
    error: str | None


def refused_row(checkpoint: Checkpoint, name: str, seed: int, code: str, error: str) -> ScoreRow:
    """The row of an image that was refused: why, and no numbers."""
    empty = dict.fromkeys(ScoreRow._fields)
    return ScoreRow(
        **{
            **empty,
            "name": name,
            "seed": seed,
            "model": checkpoint.name,
            "weights_sha256": checkpoint.weights_sha256,
            "error_code": code,
            "error": error,
        }
    )


def to_json(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as one JSON document, an array of objects."""
    document = [row._asdict() for row in rows]
    return f"{json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)}\n".encode()


def to_json_lines(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as JSON lines, one object a row."""
    lines = [json.dumps(row._asdict(), allow_nan=False, ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def to_csv(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as CSV; the KL of each dimension has a column of its own: ``kl_0``, ``kl_1``, ..."""
    records = [_flat(row) for row in rows]
    columns = max((list(record) for record in records), key=len, default=list(ScoreRow._fields))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in record.items()} for record in records)
    return text.getvalue().encode()


def to_parquet(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as an Apache Parquet file; ``kl_per_dim`` is a list column."""
    # Imported here: pyarrow costs a tenth of a second and most calls need none of it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = {"name", "model", "weights_sha256", "error_code", "error"}
    whole = {"draws", "importance_samples", "seed"}
    kinds = {
        field: pa.string() if field in text else pa.int64() if field in whole else pa.float64()
        for field in ScoreRow._fields
    }
    kinds["kl_per_dim"] = pa.list_(pa.float64())
    table = pa.Table.from_pylist([row._asdict() for row in rows], pa.schema(kinds))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


FORMATS: dict[str, Callable[[Sequence[ScoreRow]], bytes]] = {
    ".csv": to_csv,
    ".json": to_json,
    ".jsonl": to_json_lines,
    ".parquet": to_parquet,
}


def _flat(row: ScoreRow) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in row._asdict().items():
        if key == "kl_per_dim":
            record |= {f"kl_{d}": one for d, one in enumerate(value or ())}
        else:
            record[key] = value
    return record


def _inert(value: Any) -> Any:  # noqa: ANN401
    """Disarms a text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
