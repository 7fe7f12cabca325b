"""Lines of a run's `metrics.jsonl`, for readers that need no network."""

from __future__ import annotations

from pathlib import Path

from schemas.outside import Source, parse_json, read_lines
from schemas.outside.limits import META_BYTES
from schemas.runs import METRICS

Row = dict[str, int | float]
"""One optimiser step: `step` and numbers by name."""


def read_metrics(out: Path) -> list[Row]:
    """Rows of `metrics.jsonl`, in order of steps; a line that a kill cut off is left out.

    Raises:
        DataError: another line is no object of numbers with a `step`.
    """
    path = out / METRICS
    if not path.is_file():
        return []
    remedy = "Remove the line; the checkpoints do not depend on it."
    rows = []
    for number, line in enumerate(read_lines(Source(str(path), remedy), path, META_BYTES), start=1):
        if line.endswith(b"}\n"):
            source = Source(f"{path}, line {number}", remedy)
            row = parse_json(source, line)
            if type(row.get("step")) is not int or not all(type(value) in (int, float) for value in row.values()):
                raise source.damaged("expected `step` and numbers")
            rows.append(row)
    return rows
