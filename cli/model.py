"""The command `train`, and how commands find shards and runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, is_typed, refuse
from cli.options import DATASETS_YAML, Changes, Dataset, Datasets, Json, load_dataset
from cli.progress import progress_bar
from cli.say import name_of, say
from cli.weights import Weights, WeightsFormat, WeightsShare, with_stored_weights, with_weights

if TYPE_CHECKING:
    from protoocc.config import TrainConfig
    from protoocc.training_report import StepReport, TrainSummary

Shards = Annotated[
    Path | None,
    typer.Option(
        "--shards", help="Folder of `protoocc pack`; `<work>/shards` of the dataset by default.", show_default=False
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--run", help="Run folder or one checkpoint; `runs/<dataset>-<preset>` by default.", show_default=False
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", help="demo, or protoocc, panoocc or bevformer with -base, -small or -tiny, such as panoocc-small."
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, train)


def find_shards(shards: Path | None, datasets: Path, name: str | None) -> Path:
    """The shard folder: given, or that of the dataset's entry; checked against what it was packed from.

    Raises:
        ConfigError: the entry, a store or a raw file is another one than the shards were made from.
    """
    from pipelines.lineage import check_packed
    from schemas.workfolder import WorkFolder

    refuse(("name", "datasets"), shards is not None, "--shards names the folder already")
    if shards is not None:
        check_packed(shards, None)
        return shards
    dataset = load_dataset(datasets, name, None)
    folder = WorkFolder(dataset.work).shards
    check_packed(folder, dataset)
    return folder


def find_run(run: Path | None, shards: Path, preset: str) -> Path:
    """The run folder: given, or runs/<dataset>-<preset>."""
    if run is not None:
        return run
    from protoocc.data import read_shard_manifest

    return Path("runs") / f"{read_shard_manifest(shards).name}-{preset}"


def train(
    preset: Preset = "demo",
    changes: Changes = None,
    ablation: Annotated[
        str | None, typer.Option("--ablation", help="A row of the paper's tables 4 to 8.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")] = False,
    weights: Weights = None,
    weights_format: WeightsFormat = None,
    weights_share: WeightsShare = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Train the network on packed shards.

    The full configuration is stored in the run folder as config.json; its fields are what --set takes. With --resume
    they need not be repeated, and others than the stored ones are refused.

    Examples:

        protoocc train --preset protoocc-small --dataset nuscenes

        protoocc train --preset protoocc-small --ablation table4-mapping --run runs/mapping

        protoocc train --preset demo --set schedule.steps=800 --set optimizer.lr=1e-3 --run runs/longer

        protoocc train --dataset nuscenes --run runs/nuscenes-protoocc-small --resume

        protoocc train --preset protoocc-small --weights resnet50-11ad3fa6.pth
    """
    import protoocc

    folder = find_shards(shards, datasets, name)
    run = find_run(run, folder, preset)
    stored = stored_config(run) if resume and not any(map(is_typed, ("preset", "changes", "ablation"))) else None
    config = stored or protoocc.read_preset(preset, changes or (), ablation=ablation)
    config = with_weights(config, weights, weights_format, weights_share)
    if resume and weights is None:
        config = with_stored_weights(config, run)
    summary = train_with_bar(config, folder, run, resume=resume)
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps(dataclasses.asdict(summary), default=str, indent=1))


def stored_config(run: Path) -> TrainConfig | None:
    """Configuration of the run that is there; None for a folder without one."""
    from protoocc.checkpoint import CONFIG, read_config

    return read_config(run / CONFIG) if (run / CONFIG).is_file() else None


def note_shards(run: Path, shards: Path) -> None:
    """Stores which dataset and shards a run was trained on, for `protoocc status`."""
    import json

    from protoocc.data import read_shard_manifest
    from schemas.files import write_bytes
    from schemas.runs import RunFolder

    found = {"dataset": read_shard_manifest(shards).name, "shards": str(shards.absolute())}
    write_bytes(RunFolder(run).trained_on, f"{json.dumps(found, indent=1)}\n".encode())


def train_with_bar(config: TrainConfig, shards: Path, run: Path, *, resume: bool) -> TrainSummary:
    """Trains under a progress bar that shows the four losses, and prints how they fell."""
    import protoocc

    with progress_bar("train", "steps") as update:
        is_noted = False

        def show(report: StepReport) -> None:
            nonlocal is_noted
            if not is_noted:
                note_shards(run, shards)
                is_noted = True
            names = ("ce", "lovasz", "cls", "cons")
            update(report.step, report.steps, " ".join(f"{name} {report.losses[name]:.3f}" for name in names))

        summary = protoocc.train(config, shards, run, resume=resume, on_step=show)
    falls = ", ".join(
        f"{name} {summary.first[name]:.3f} -> {summary.last[name]:.3f}" for name in ("ce", "lovasz", "cls", "cons")
    )
    say(
        f"train: {summary.steps} steps on {summary.samples} samples in {summary.seconds:.1f} s; {falls}; "
        f"{name_of(summary.checkpoint)}"
    )
    return summary
