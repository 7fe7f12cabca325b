"""`report.html`: one run on one page, from what its folder holds."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from protoocc.data import open_shards
from protoocc.environment import read_environment
from protoocc.pictures import sheets, spread
from protoocc.report.curves import draw_curves
from protoocc.report.page import folded, page, paragraph, picture, table
from protoocc.run_facts import RunFacts, read_run, scores_of
from protoocc.run_folder import TENSORBOARD
from protoocc.run_scores import read_scores
from schemas.errors import ProtoOccError, disk_errors
from schemas.files import write_bytes
from schemas.runs import REPORT

__all__ = ["write_report"]

_NOTHING = "-"


def write_report(run: Path, shards: Path | None, *, split: str = "val", count: int = 2) -> Path:
    """Writes `report.html` into a run folder.

    The same folder and shards give the same bytes; only times of training differ from machine to machine.

    Args:
        run: run folder.
        shards: samples to draw; None draws none.
        split: of the shards.
        count: pictures.

    Returns:
        Path of the page.

    Raises:
        ConfigError: no run there.
        DataError: one of its files is damaged, or the page cannot be written.
    """
    facts = read_run(run)
    sections = {
        "Summary": table(_summary(facts)) + _losses(facts),
        "Curves": _curves(facts),
        "Validation during training": _validations(facts),
        "Scores": _scores(run),
        "Pictures": _pictures(facts, shards, split, count) if count else "",
        "Environment": table(list(read_environment(run).items())),
        "Settings": folded("All settings, as --set takes them", table(_settings(facts))),
    }
    path = run / REPORT
    write_bytes(path, page(facts.name, _subtitle(facts), sections).encode())
    return path


def _subtitle(facts: RunFacts) -> str:
    trained_on = f"trained on {facts.dataset}, " if facts.dataset else ""
    return f"{facts.kind or 'unknown'} network, {trained_on}{facts.state}"


def _summary(facts: RunFacts) -> list[tuple[str, str]]:
    rows = [("steps", f"{facts.step} of {'?' if facts.steps is None else facts.steps}")]
    rows.append(("time of all steps", str(timedelta(seconds=round(facts.seconds)))))
    if facts.scores_step is not None:
        figures = ", ".join(f"{name} {_percent(share)}" for name, share in facts.scores.items())
        rows.append(("best validation, %", f"{figures} (step {facts.scores_step})"))
    return rows


def _losses(facts: RunFacts) -> str:
    """Where each loss began and where it is."""
    rows = [(name, f"{facts.first[name]:.4g}", f"{facts.last[name]:.4g}") for name in facts.last if name in facts.first]
    return table(rows, ("loss", "mean of the first tenth of the steps", "of the last tenth"))


def _curves(facts: RunFacts) -> str:
    if not facts.rows:
        return paragraph("No step is finished yet.")
    return paragraph("By number of the step; of long runs each point is the mean of several.") + draw_curves(facts.rows)


def _validations(facts: RunFacts) -> str:
    """A line per validation, percent."""
    found = {int(row["step"]): scores for row in facts.rows if (scores := scores_of(row))}
    names = list(dict.fromkeys(name for scores in found.values() for name in scores))
    rows = [(str(step), *(_percent(scores.get(name)) for name in names)) for step, scores in found.items()]
    return table(rows, ("step", *(f"{name}, %" for name in names)))


def _scores(run: Path) -> str:
    """What `protoocc eval` found: a column per predictor, then everything one must know to read it."""
    kept = read_scores(run)
    if kept is None:
        return ""
    names = list(dict.fromkeys(name for row in kept.rows.values() for name in row))
    rows = [(name.removeprefix("classes."), *(_percent(row.get(name)) for row in kept.rows.values())) for name in names]
    facts = [(name, _plain(value)) for name, value in kept.facts.items()]
    return table(rows, ("%", *kept.rows)) + table(facts)


def _pictures(facts: RunFacts, shards: Path | None, split: str, count: int) -> str:
    """Samples with the prediction of the last checkpoint, or why there are none; TensorBoard gets them as well."""
    if shards is None:
        return paragraph("None were drawn: the shards that the run was trained on are not there.")
    try:
        opened = open_shards(shards, split)
        drawn = list(sheets(opened, checkpoint=facts.folder, chosen=spread(len(opened.samples), count)))
    except ProtoOccError as error:
        return paragraph(f"None were drawn: {error}")
    with disk_errors(facts.folder / TENSORBOARD), SummaryWriter(str(facts.folder / TENSORBOARD)) as board:
        for key, image in drawn:
            board.add_image(f"{split}/{key}", image, facts.step, dataformats="HWC")
    return "\n".join(picture(image, f"{split}, {key}") for key, image in drawn)


def _settings(facts: RunFacts) -> list[tuple[str, str]]:
    return [(name, json.dumps(value)) for name, value in sorted(facts.settings.items())]


def _percent(share: Any) -> str:
    """A share 0..1 in percent; anything else as it is."""
    return f"{100 * share:.2f}" if isinstance(share, float) else _plain(share)


def _plain(value: Any) -> str:
    return _NOTHING if value is None else str(value)
