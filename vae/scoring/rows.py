r"""The row of a score: one contract for Python, the command line, the screen and its downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vae.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "FORMATS",
    "FRAMES",
    "PARTS",
    "ScoreRow",
    "inert",
    "parquet_schema",
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
    elbo_error: float | None
    verdict: str | None
    percentile: float | None
    p_value: float | None
    draws: int | None
    importance_samples: int | None
    seed: int
    model: str
    weights_sha256: str
    error_code: str | None
    error: str | None

    @property
    def elbo_uncertainty(self) -> float | None:
        """What to print after the ELBO's ±, in nats; none from a single draw."""
        return self.elbo_se if self.elbo_error is None else self.elbo_error


# Spreadsheets for Asian scripts take the wide signs too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_KL = ScoreRow._fields.index("kl_per_dim")


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
    start, _, end = FRAMES[".json"](0)
    return start + json_part(rows) + end if rows else b"[]\n"


def json_part(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as they stand in a JSON document, without what goes before, between and after."""
    document = [row._asdict() for row in rows]
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)[2:-2].encode()


def to_json_lines(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as JSON lines, one object a row."""
    lines = [json.dumps(row._asdict(), allow_nan=False, ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def to_csv(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as CSV; the KL of each dimension has a column of its own: ``kl_0``, ``kl_1``, ..."""
    dims = max((len(row.kl_per_dim or ()) for row in rows), default=0)
    return FRAMES[".csv"](dims).start + csv_part(rows, dims)


def csv_part(rows: Sequence[ScoreRow], dims: int) -> bytes:
    """Rows as CSV without the line of names, with so many columns for the KL."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        before, kl, after = row[:_KL], row.kl_per_dim or ("",) * dims, row[_KL + 1 :]
        values = [*before, *kl, *[""] * (dims - len(kl)), *after]
        writer.writerow([inert(value) for value in values])
    return text.getvalue().encode()


def to_parquet(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as an Apache Parquet file; ``kl_per_dim`` is a list column."""
    # Imported here: pyarrow costs a tenth of a second and most calls need none of it.
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(_table(rows), sink)
    return sink.getvalue()


def arrow_part(rows: Sequence[ScoreRow]) -> bytes:
    """Rows in Arrow's own format, which is nearly free, until they become Parquet."""
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, parquet_schema()) as writer:
        writer.write_table(_table(rows))
    return sink.getvalue()


def _table(rows: Sequence[ScoreRow]) -> pyarrow.Table:
    import pyarrow as pa

    schema = parquet_schema()
    columns = zip(*rows, strict=True) if rows else [()] * len(ScoreRow._fields)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def parquet_schema() -> pyarrow.Schema:
    """The names and types of the columns in Parquet."""
    import pyarrow as pa

    text = {"name", "verdict", "model", "weights_sha256", "error_code", "error"}
    whole = {"draws", "importance_samples", "seed"}
    kinds = {
        field: pa.string() if field in text else pa.int64() if field in whole else pa.float64()
        for field in ScoreRow._fields
    }
    kinds["kl_per_dim"] = pa.list_(pa.float64())
    return pa.schema(kinds)


class Frame(NamedTuple):
    """What stands around the parts of a text document."""

    start: bytes
    between: bytes
    end: bytes


def _csv_frame(dims: int) -> Frame:
    names = (*ScoreRow._fields[:_KL], *(f"kl_{d}" for d in range(dims)))
    return Frame(f"{','.join((*names, *ScoreRow._fields[_KL + 1 :]))}\n".encode(), b"", b"")


# How parts of rows make one document: text ones are framed, given the latent dimensions.
FRAMES: dict[str, Callable[[int], Frame]] = {
    ".csv": _csv_frame,
    ".json": lambda _: Frame(b"[\n", b",\n", b"\n]\n"),
    ".jsonl": lambda _: Frame(b"", b"", b""),
}
PARTS: dict[str, Callable[[Sequence[ScoreRow], int], bytes]] = {
    ".csv": csv_part,
    ".json": lambda rows, _: json_part(rows),
    ".jsonl": lambda rows, _: to_json_lines(rows),
    ".parquet": lambda rows, _: arrow_part(rows),
}

FORMATS: dict[str, Callable[[Sequence[ScoreRow]], bytes]] = {
    ".csv": to_csv,
    ".json": to_json,
    ".jsonl": to_json_lines,
    ".parquet": to_parquet,
}


def inert(value: Any) -> Any:  # noqa: ANN401
    """A value for a CSV file; a text that a spreadsheet would run as a formula is disarmed."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
