"""`protoocc runs`: lists training runs and compares them; `protoocc report`: one run on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.given import add_command, refuse
from cli.options import Json
from cli.say import answers, name_of, say, shown

if TYPE_CHECKING:
    from protoocc.evaluate import EvalReport
    from protoocc.run_facts import RunFacts

NOTHING = "-"
"""What stands for a figure that a run does not have."""


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    add_command(app, runs)
    add_command(app, report)


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs, or folders with runs at any depth.  [default: runs]", show_default=False, metavar="[RUN]..."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List training runs: steps, state, losses, best validation, time. Compare two or more that you name.

    A comparison shows the settings that differ, and the figures, side by side. The losses of a run are means over the
    last tenth of its steps, of a comparison also over the first.

    Examples:

        protoocc runs

        protoocc runs /scratch/ablations --json

        protoocc runs runs/nuscenes-protoocc-small runs/nuscenes-panoocc-small
    """
    from protoocc.run_facts import find_runs, read_run
    from schemas.runs import CONFIG

    given = folders or [Path("runs")]
    found = [read_run(run) for parent in given for run in find_runs(parent)]
    if not found:
        say(f"no runs in {', '.join(map(name_of, given))}; `protoocc train` makes one")
    is_comparison = len(given) > 1 and all((folder / CONFIG).is_file() for folder in given)
    if as_json:
        _print_json(found, is_comparison=is_comparison)
    elif is_comparison:
        _print_comparison(found)
    else:
        _print_list(found)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    pictures: Annotated[int, typer.Option("--count", min=0, help="Pictures of samples of --split; 0: none.")] = 2,
    split: Annotated[str, typer.Option("--split", help="Split to draw from.")] = "val",
    shards: Annotated[
        Path | None,
        typer.Option("--shards", help="Shards to draw from; those that it was trained on by default."),
    ] = None,
) -> None:
    """Write report.html into a run folder: settings, curves, scores, pictures, environment. One file, no network.

    `protoocc train` and `protoocc eval` write it at their end.

    Examples:

        protoocc report runs/nuscenes-protoocc-small

        protoocc report runs/nuscenes-protoocc-small --count 6 --split train
    """
    refuse(("split", "shards"), pictures == 0, "--count 0 draws no pictures")
    typer.echo(write_report_of(run, shards, split=split, count=pictures))


def write_report_of(run: Path, shards: Path | None, *, split: str, count: int) -> Path:
    """Writes the report; without shards, those that the run was trained on, where they are still there."""
    from protoocc.report import write_report
    from protoocc.run_facts import shards_of

    return write_report(run, shards or shards_of(run), split=split, count=count)


def finish_report(run: Path, shards: Path) -> None:
    """Writes the report of a run that is over; what is wrong there does not undo the training."""
    from schemas.errors import ProtoOccError

    try:
        say(f"report: {name_of(write_report_of(run, shards, split='val', count=2))}")
    except ProtoOccError as error:
        say(f"report: not written: {error}", "yellow")


def keep_scores(run: Path, scores: EvalReport, shards: Path) -> None:
    """Stores scores in the folder of their run and writes its report again; a lone checkpoint keeps none."""
    from schemas.errors import ProtoOccError
    from schemas.files import write_bytes
    from schemas.runs import EVALUATION, RunFolder

    if not RunFolder(run).checkpoints.is_dir():
        return
    try:
        write_bytes(run / EVALUATION, f"{scores.model_dump_json(indent=1)}\n".encode())
    except ProtoOccError as error:
        say(f"eval: the run could not keep the scores: {error}", "yellow")
        return
    finish_report(run, shards)


def _print_list(found: Sequence[RunFacts]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("run", "network", "steps", "state", "losses", "best validation", "eval", "time"):
        table.add_column(header, justify="right" if header in ("steps", "time") else "left", overflow="fold")
    for run in found:
        figures = (_losses(run.last), _best(run), _evaluated(run), _time(run.seconds))
        cells = (run.folder, run.kind, _steps(run), run.state, *figures)
        table.add_row(*(shown(name_of(cell)) for cell in cells))
    answers().print(table)


def _print_comparison(found: Sequence[RunFacts]) -> None:
    from rich.table import Table

    table = Table()
    for header in ("", *(name_of(run.folder) for run in found)):
        table.add_column(shown(header), overflow="fold")
    parts = [differing_settings(found), _figures(found)]
    for part in parts:
        for name, values in part.items():
            table.add_row(*(shown(name_of(cell)) for cell in (name, *values)))
        table.add_section()
    answers().print(table)


def differing_settings(found: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs, by dotted name; a value per run."""
    import json

    names = sorted({name for run in found for name in run.settings})
    values = {
        name: [json.dumps(run.settings[name]) if name in run.settings else NOTHING for run in found] for name in names
    }
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _figures(found: Sequence[RunFacts]) -> dict[str, list[str]]:
    figures: dict[str, list[str]] = {
        "steps": [_steps(run) for run in found],
        "state": [run.state for run in found],
        "time": [_time(run.seconds) for run in found],
    }
    for loss in dict.fromkeys(name for run in found for name in run.last):
        pairs = [(run.first.get(loss), run.last.get(loss)) for run in found]
        figures[loss] = [NOTHING if one is None else f"{one:.4g} -> {other:.4g}" for one, other in pairs]
    if any(run.scores for run in found):
        figures["best step"] = [NOTHING if run.scores_step is None else str(run.scores_step) for run in found]
    for score in dict.fromkeys(name for run in found for name in run.scores):
        figures[f"best {score}, %"] = [percent(run.scores.get(score)) for run in found]
    if any(run.evaluated for run in found):
        figures["eval on"] = [run.evaluated_split or NOTHING for run in found]
    for score in dict.fromkeys(name for run in found for name in run.evaluated):
        figures[f"eval {score}, %"] = [percent(run.evaluated.get(score)) for run in found]
    return figures


def _print_json(found: Sequence[RunFacts], *, is_comparison: bool) -> None:
    import json

    rows: list[dict[str, Any]] = [
        {name: value for name, value in vars(run).items() if name not in ("rows", "settings")} for run in found
    ]
    answer: Any = rows
    if is_comparison:
        settings = {name: [run.settings.get(name) for run in found] for name in differing_settings(found)}
        answer = {"runs": rows, "differing_settings": settings}
    typer.echo(json.dumps(answer, default=str, indent=1))


def _steps(run: RunFacts) -> str:
    return f"{run.step} / {'?' if run.steps is None else run.steps}"


def _losses(losses: Mapping[str, float]) -> str:
    """Every loss but sums over cells, which depend on the size of the images."""
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items() if not name.endswith("_sum")) or NOTHING


def _best(run: RunFacts) -> str:
    if run.scores_step is None:
        return NOTHING
    return f"{_mious(run.scores)} at {run.scores_step}"


def _evaluated(run: RunFacts) -> str:
    return f"{_mious(run.evaluated)} on {run.evaluated_split}" if run.evaluated else NOTHING


def _mious(shares: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {percent(shares.get(key))}" for name, key in (("mIoU", "miou"), ("IoU", "iou")))


def percent(share: object) -> str:
    """A share 0..1 with two digits."""
    return f"{100 * share:.2f}" if isinstance(share, float) else NOTHING


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
