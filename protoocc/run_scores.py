"""Scores that `protoocc eval` keeps in the folder of a run, for readers that need no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.errors import DataError
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.runs import EVALUATION
from schemas.settings import flatten

_MASK: Final = "masks.camera."
_PARTS: Final = ("distances.", "heights.", "ranges.", "conventions.")
_REMEDY: Final = "Make it again with `protoocc eval`, or remove it."


@dataclass(frozen=True)
class KeptScores:
    """A table of scores.

    Attributes:
        facts: what one must know to read it, by dotted name: `split`, `samples`, `checkpoint`, ...
        rows: figures of each predictor under the camera mask by dotted name, such as `miou` and `classes.car`, and
            `ray_iou`; shares are 0..1, None where a figure does not exist.
    """

    facts: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]

    def of_model(self) -> dict[str, Any]:
        """Figures of the network itself, without those of single classes."""
        return {name: value for name, value in self.rows.get("model", {}).items() if "." not in name}


def read_scores(run: Path) -> KeptScores | None:
    """The last scores of a run; None where nobody scored it.

    Raises:
        DataError: the file is damaged.
    """
    path = run / EVALUATION
    if not path.is_file():
        return None
    source = Source(str(path), _REMEDY)
    stored = dict(parse_json(source, read_bytes(source, path, JSON_BYTES)))
    rows = stored.pop("rows", None)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: 'rows' is no list of objects. {_REMEDY}")
    return KeptScores(flatten(stored), {str(row.get("name", "")): _figures(flatten(row)) for row in rows})


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the benchmark's mask, without zones, and RayIoU."""
    benchmark = {name.removeprefix(_MASK): value for name, value in row.items() if name.startswith(_MASK)}
    figures = {name: value for name, value in benchmark.items() if not name.startswith(_PARTS)}
    return figures | {"ray_iou": row.get("rays.ray_iou")}
