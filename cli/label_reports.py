"""Tables, pictures and JSON of `protoocc occupancy --compare` and `--check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from cli.progress import progress_bar
from cli.say import console, name_of, say, shown

if TYPE_CHECKING:
    from pipelines.occupancy.check import Check
    from pipelines.occupancy.compare_folder import Comparison
    from pipelines.scheduler import Scheduler
    from schemas.classes import ClassTable
    from schemas.datasets import DatasetSpec


def report_comparison(dataset: DatasetSpec, folder: Path, scheduler: Scheduler) -> dict[str, Any]:
    """Compares the store with a folder, prints the tables, draws the picture; returns what `--json` prints."""
    from cli.label_pictures import draw_differences
    from pipelines.occupancy.compare_folder import compare_with_folder

    with progress_bar("compare") as update:
        comparison = compare_with_folder(dataset, dataset.work, folder, scheduler=scheduler, on_progress=update)
    picture = dataset.work / "pictures" / "compare.png"
    draw_differences(dataset, folder, comparison, picture)
    _print_comparison(comparison, folder, dataset.classes)
    say(f"picture of the keyframe that agrees least: {name_of(picture)}")
    return {
        **comparison.figures,
        "keyframes": len(comparison.per_row),
        "missing": comparison.missing,
        "picture": str(picture),
        "classes": {dataset.classes.names[label]: scores for label, scores in _class_scores(comparison)},
    }


def report_voxel_comparison(dataset: DatasetSpec, folder: Path, scheduler: Scheduler) -> dict[str, Any]:
    """Compares the store with SemanticKITTI's voxel files and prints the figures; returns what `--json` prints."""
    from pipelines.occupancy.compare_voxels import compare_with_voxels

    with progress_bar("compare") as update:
        comparison = compare_with_voxels(dataset, dataset.work, folder, scheduler=scheduler, on_progress=update)
    say(f"{comparison.keyframes} keyframes compared with the voxels of {name_of(folder)}; means over keyframes:")
    for name, value in comparison.figures.items():
        say(f"  {name}: {'no files' if value is None else f'{value:.3f}'}")
    return {**comparison.figures, "keyframes": comparison.keyframes}


def _class_scores(comparison: Comparison) -> list[tuple[int, dict[str, float | None]]]:
    from pipelines.occupancy.compare_folder import class_scores

    return class_scores(comparison.confusion)


def _print_comparison(comparison: Comparison, folder: Path, classes: ClassTable) -> None:
    table = Table(
        title=shown(f"labels against {name_of(folder)}, voxels that its mask_lidar observes"), title_justify="left"
    )
    table.add_column("class", no_wrap=True)
    for name in ("its voxels", "ours", "IoU", "precision", "recall"):
        table.add_column(name, justify="right")
    for label, scores in _class_scores(comparison):
        shares = [_percent(scores[name]) for name in ("iou", "precision", "recall")]
        voxels = [f"{scores[name]:.0f}" for name in ("theirs", "ours")]
        table.add_row(shown(classes.names[label]), *voxels, *shares)
    console.print(table)
    missing = f", {comparison.missing} without a file there" if comparison.missing else ""
    say(f"{len(comparison.per_row)} keyframes compared{missing}; means over keyframes:")
    for name, value in comparison.figures.items():
        say(f"  {name:18} {'not defined' if value is None else f'{value:.4f}'}")


def report_check(dataset: DatasetSpec, scheduler: Scheduler) -> dict[str, Any]:
    """Checks the store against its sensors, prints the table, draws the picture; returns what `--json` prints."""
    from cli.label_pictures import draw_first_hits
    from pipelines.occupancy.check import OUTCOMES, check_labels

    with progress_bar("check") as update:
        check = check_labels(dataset, dataset.work, scheduler=scheduler, on_progress=update)
    picture = dataset.work / "pictures" / "check.png"
    draw_first_hits(dataset, check, picture)
    _print_check(check, dataset.classes)
    say(f"picture of the first voxel behind each pixel: {name_of(picture)}")
    classes = {
        dataset.classes.names[label]: {
            **dict(zip(OUTCOMES, counts.tolist(), strict=True)),
            "precision": _precision(check, label),
        }
        for label, counts in sorted(check.pixels.items())
    }
    return {
        **check.figures,
        "checked_keyframes": check.keyframes,
        "picture_check": str(picture),
        "box_pixels": classes,
        "lidar_depth": {"returns": check.depth.returns, **check.depth.figures},
        "lidar_depth_floor": check.depth_floor.figures,
    }


def _print_check(check: Check, classes: ClassTable) -> None:
    from pipelines.occupancy.check import OUTCOMES

    table = Table(title="rays that meet an annotated box: what the first occupied voxel is", title_justify="left")
    table.add_column("class", no_wrap=True)
    heads = ("rays", "box's class", "other class", "before the box", "none in the box")
    for name in (*heads[: len(OUTCOMES) + 1], "precision"):
        table.add_column(name, justify="right")
    for label, counts in sorted(check.pixels.items()):
        shares = [_percent(share) for share in (counts / counts.sum()).tolist()]
        table.add_row(shown(classes.names[label]), str(counts.sum()), *shares, _percent(_precision(check, label)))
    console.print(table)
    texts = {
        "lidar_hit": (
            f"of {check.returns} LiDAR returns lie in an occupied voxel (aim: at least 98 %)",
            f"of {check.touched} occupied voxels on the LiDAR's rays are at or beside a return",
        ),
        "depth": (
            f"of {check.views} camera rays to a return meet their first voxel as far away, within a quarter",
            f"of the {check.views_met} that meet a voxel at all",
        ),
        "box_pixel": (
            "of the rays in the table meet the box's class first",
            "of the rays that meet one of these classes first do so in a box of it",
        ),
    }
    for name, (recall, precision) in texts.items():
        share, precise = (_percent(check.figures[f"{name}_{kind}"]) for kind in ("share", "precision"))
        say(f"{share} {recall}; precision: {precise} {precision}")
    _print_depth(check)


_SHARES: Final = ("relative", "within_1.25", "within_1.25^2", "within_1.25^3", "early", "late")


def _print_depth(check: Check) -> None:
    from pipelines.occupancy.depth import ASIDE_M, NEAR_M

    title = f"depth of the first voxel on the rays of {check.depth.returns} LiDAR returns beyond {NEAR_M:g} m"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    texts = {
        "mae_m": "mean absolute error, m",
        "rmse_m": "root mean square error, m",
        "rmse_log": "the same of logarithms",
        "relative": "mean relative error",
        "within_1.25": "within a factor of 1.25",
        "within_1.25^2": "within 1.25 squared",
        "within_1.25^3": "within 1.25 cubed",
        "early": f"more than {ASIDE_M:g} m early",
        "late": f"more than {ASIDE_M:g} m late",
    }
    for name in ("labels", "floor"):
        table.add_column(name, justify="right")
    for name, text in texts.items():
        values = (errors.figures[name] for errors in (check.depth, check.depth_floor))
        table.add_row(text, *(_percent(v) if name in _SHARES else _number(v) for v in values))
    console.print(table)
    say("floor: the voxels that hold these returns alone, so what the voxels' size costs")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _precision(check: Check, label: int) -> float | None:
    """Share of the pixels whose first voxel is of this class that lie in a box of it."""
    claimed, right = check.things.get(label, (0, 0))
    return float(right / claimed) if claimed else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
