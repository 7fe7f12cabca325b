"""Curves of a run as one inline SVG: a panel for each loss, the learning rate, the gradients, scores and times."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from protoocc.run_rows import Row
from protoocc.training_report import NO_LOSS, SCORES

Curve = tuple[list[float], list[float]]
"""Steps and values."""

MOST_POINTS: Final = 300
"""Points of a curve; each is the mean over equally many steps."""
COLUMNS: Final = 3
_PANEL_INCHES: Final = (3.9, 2.4)
_OTHERS: Final = {
    "learning rate": ("lr",),
    "gradient norm": ("gradient_norm",),
    "seconds a step": ("seconds", "data_seconds"),
    "memory, GB": ("memory_gb",),
}
"""Panels beside losses and scores, and their columns."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "protoocc",  # names of clip paths, at random without it
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def draw_curves(rows: Sequence[Row]) -> str:
    """The SVG element of all panels; the same rows give the same bytes.

    Args:
        rows: lines of `metrics.jsonl`; at least one.
    """
    found = panels(rows)
    lines = math.ceil(len(found) / COLUMNS)
    with matplotlib.rc_context(_STYLE):
        size = (COLUMNS * _PANEL_INCHES[0], lines * _PANEL_INCHES[1])
        figure = Figure(figsize=size, layout="constrained")
        for number, (title, curves) in enumerate(found.items(), start=1):
            axes = figure.add_subplot(lines, COLUMNS, number)
            axes.set_title(title, loc="left", fontsize=10)
            for name, (steps, values) in curves.items():
                axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 20 else None)
            if len(curves) > 1:
                axes.legend(frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def panels(rows: Sequence[Row]) -> dict[str, dict[str, Curve]]:
    """Curves by title and name: each loss by itself, all scores together in percent, then learning rate and times."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    losses = [name for name in columns if name not in NO_LOSS and not name.startswith(SCORES)]
    scores = [name for name in columns if name.startswith(SCORES)]
    found = {name: {name: _curve(rows, name)} for name in losses}
    if scores:
        shares = {name.removeprefix(SCORES): _curve(rows, name) for name in scores}
        found["validation, %"] = {name: (steps, [100 * value for value in v]) for name, (steps, v) in shares.items()}
    for title, names in _OTHERS.items():
        if present := [name for name in names if name in columns]:
            found[title] = {name: _curve(rows, name) for name in present}
    return found


def _curve(rows: Sequence[Row], name: str) -> Curve:
    """Means over `MOST_POINTS` equal parts of the rows that have a value."""
    points = np.array([(row["step"], row[name]) for row in rows if name in row], dtype=np.float64)
    means = [part.mean(0) for part in np.array_split(points, min(len(points), MOST_POINTS))]
    return [float(step) for step, _ in means], [float(value) for _, value in means]
