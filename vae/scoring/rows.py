r"""The row of a score: one contract for Python, the command line, the screen and its downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from vae.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "FORMATS",
    "ScoreRow",
    "inert",
    "json_pieces",
    "refused_row",
    "row_schema",
    "table_of",
    "to_csv",
    "to_json",
    "to_json_lines",
    "to_parquet",
    "write_tables",
]

_TABLES_A_GROUP = 16


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
    return b"".join(json_pieces([rows]))


def to_json_lines(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as JSON lines, one object a row."""
    return b"".join(_json_lines_pieces([rows], 0))


def to_csv(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as CSV; the KL of each dimension has a column of its own: ``kl_0``, ``kl_1``, ..."""
    return b"".join(
        _csv_pieces([rows], max((len(row.kl_per_dim or ()) for row in rows), default=0))
    )


def to_parquet(rows: Sequence[ScoreRow]) -> bytes:
    """Rows as an Apache Parquet file; ``kl_per_dim`` is a list column."""
    # Imported here: pyarrow costs a tenth of a second and most calls need none of it.
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table_of(rows), sink)
    return sink.getvalue()


FORMATS: dict[str, Callable[[Sequence[ScoreRow]], bytes]] = {
    ".csv": to_csv,
    ".json": to_json,
    ".jsonl": to_json_lines,
    ".parquet": to_parquet,
}


def write_tables(file: BinaryIO, suffix: str, tables: Iterable[pyarrow.Table], dims: int) -> None:
    """Writes rows in one of :data:`FORMATS`, a table at a time.

    Args:
        file: Where to.
        suffix: The format.
        tables: The rows; see :func:`table_of`.
        dims: The number of latent dimensions, which have columns of their own in CSV.
    """
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = iter(tables)
        with pq.ParquetWriter(file, row_schema()) as writer:
            # Every group of rows costs a little for each column, in writing and in reading.
            while some := list(islice(tables, _TABLES_A_GROUP)):
                writer.write_table(pa.concat_tables(some))
        return
    file.writelines(_PIECES[suffix](map(_rows_of, tables), dims))


def json_pieces(parts: Iterable[Sequence[ScoreRow]], dims: int = 0) -> Iterator[bytes]:
    """One JSON document in pieces, each written as soon as its rows are there."""
    between = b"[\n"
    for rows in parts:
        if rows:
            document = [row._asdict() for row in rows]
            text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
            yield between + text[2:-2].encode()
            between = b",\n"
    yield b"[]\n" if between == b"[\n" else b"\n]\n"


def _json_lines_pieces(parts: Iterable[Sequence[ScoreRow]], dims: int) -> Iterator[bytes]:
    for rows in parts:
        lines = [json.dumps(row._asdict(), allow_nan=False, ensure_ascii=False) for row in rows]
        yield "".join(f"{line}\n" for line in lines).encode()


def _csv_pieces(parts: Iterable[Sequence[ScoreRow]], dims: int) -> Iterator[bytes]:
    names = (*ScoreRow._fields[:_KL], *(f"kl_{d}" for d in range(dims)))
    yield f"{','.join((*names, *ScoreRow._fields[_KL + 1 :]))}\n".encode()
    for rows in parts:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            before, kl, after = row[:_KL], row.kl_per_dim or ("",) * dims, row[_KL + 1 :]
            values = [*before, *kl, *[""] * (dims - len(kl)), *after]
            writer.writerow([inert(value) for value in values])
        yield text.getvalue().encode()


_PIECES = {".csv": _csv_pieces, ".json": json_pieces, ".jsonl": _json_lines_pieces}


def row_schema() -> pyarrow.Schema:
    """The names and types of a row's columns in Arrow and Parquet."""
    import pyarrow as pa

    text = {"name", "verdict", "model", "weights_sha256", "error_code", "error"}
    whole = {"draws", "importance_samples", "seed"}
    kinds = {
        field: pa.string() if field in text else pa.int64() if field in whole else pa.float64()
        for field in ScoreRow._fields
    }
    kinds["kl_per_dim"] = pa.list_(pa.float64())
    return pa.schema(kinds)


def table_of(rows: Sequence[ScoreRow]) -> pyarrow.Table:
    """Rows as an Arrow table, of one schema whatever they hold."""
    import pyarrow as pa

    schema = row_schema()
    columns = zip(*rows, strict=True) if rows else [()] * len(ScoreRow._fields)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _rows_of(table: pyarrow.Table) -> list[ScoreRow]:
    columns = (column.to_pylist() for column in table.itercolumns())
    return [ScoreRow(*one) for one in zip(*columns, strict=True)]


def inert(value: Any) -> Any:  # noqa: ANN401
    """A value for a CSV file; a text that a spreadsheet would run as a formula is disarmed."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
