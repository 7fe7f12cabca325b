"""The command `train`, and how commands find shards and runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command, is_typed, refuse
from cli.mirrors import mirrored
from cli.options import DATASETS_YAML, Changes, Dataset, Datasets, Json, load_dataset
from cli.processes import Processes, is_first, shared_process
from cli.progress import progress_bar
from cli.runs import finish_report
from cli.say import name_of, say
from cli.weights import Weights, WeightsFormat, WeightsShare, with_stored_weights, with_weights

if TYPE_CHECKING:
    import torch

    from protoocc.config import TrainConfig
    from protoocc.plan import Plan
    from protoocc.training_report import StepReport, TrainSummary

Shards = Annotated[
    str | None,
    typer.Option(
        "--shards",
        help="Folder of `protoocc pack`, or an address to stream from (https://, s3://, gs://, hf://); `<work>/shards` "
        "of the dataset by default.",
        show_default=False,
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
        "--preset",
        help="demo, or protoocc, panoocc or bevformer with -base, -small or -tiny, such as panoocc-small; for "
        "SemanticKITTI voxformer or symphonies with -base, -small or -demo, and -protoocc behind. docs/networks.md "
        "knows all.",
    ),
]


ShowPlan = Annotated[
    bool, typer.Option("--plan", help="Train nothing: print steps, hours, memory and disk, from measured rates.")
]
Hardware = Annotated[
    str | None,
    typer.Option(
        "--hardware", help="With --plan: one measured machine, or several, such as 8xh100.", show_default=False
    ),
]
Like = Annotated[
    Path | None,
    typer.Option("--like", help="With --plan: time and memory of a step as in this run of yours.", show_default=False),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        help="With --plan: samples of the split, without shards; 28130 in nuScenes.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, train)


def find_shards(shards: str | None, datasets: Path, name: str | None) -> Path:
    """The shard folder: given, a mirror of the given address, or that of the dataset's entry.

    A folder is checked against what it was packed from.

    Raises:
        ConfigError: the entry, a store or a raw file is another one than the shards were made from.
    """
    from pipelines.lineage import check_packed
    from schemas.workfolder import WorkFolder

    refuse(("name", "datasets"), shards is not None, "--shards names the folder already")
    if shards is not None and "://" in shards:
        return mirrored(shards)
    if shards is not None:
        check_packed(Path(shards), None)
        return Path(shards)
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
    extend: Annotated[
        int | None,
        typer.Option(
            "--extend", min=1, help="Go on with a finished run for so many more steps, recorded in its config.json."
        ),
    ] = None,
    nproc: Processes = None,
    weights: Weights = None,
    weights_format: WeightsFormat = None,
    weights_share: WeightsShare = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    plan: ShowPlan = False,
    hardware: Hardware = None,
    like: Like = None,
    samples: Samples = None,
    as_json: Json = False,
) -> None:
    """Train the network on packed shards.

    The full configuration is stored in the run folder as config.json; its fields are what --set takes. With --resume
    they need not be repeated, and others than the stored ones are refused. Processes on several machines are started
    by torchrun. At the end report.html shows the run.

    Examples:

        protoocc train --preset protoocc-small --dataset nuscenes

        protoocc train --preset protoocc-small --ablation table4-mapping --run runs/mapping

        protoocc train --preset demo --set schedule.steps=800 --set optimizer.lr=1e-3 --run runs/longer

        protoocc train --dataset nuscenes --run runs/nuscenes-protoocc-small --resume

        protoocc train --preset protoocc-small --weights resnet50-11ad3fa6.pth

        protoocc train --preset protoocc-small --set validation.every=500 --set optimizer.ema=0.999 --nproc 8

        protoocc train --dataset nuscenes --run runs/nuscenes-protoocc-small --extend 10000

        torchrun --nproc-per-node 8 --no-python -- protoocc train --preset protoocc-small

        protoocc train --preset protoocc-small --set data.augment=host --set data.augment.flip_y=0.5

        protoocc train --preset protoocc-small --plan --samples 28130

        protoocc train --preset protoocc-small --plan --samples 28130 --like runs/nuscenes-protoocc-small
    """
    import protoocc

    refuse(("hardware", "like", "samples"), not plan, "it belongs to --plan")
    refuse(("hardware",), like is not None, "--like says whose steps count")
    untrained = ("resume", "weights", "weights_format", "weights_share", "run", "nproc", "extend")
    refuse(untrained, plan, "--plan trains nothing")
    if plan:
        from protoocc.plan import make_plan

        refuse(("shards", "name", "datasets"), samples is not None, "--samples says how many samples there are")
        config = protoocc.read_preset(preset, changes or (), ablation=ablation)
        samples = samples or count_samples(find_shards(shards, datasets, name), config.data.split)
        show_plan(make_plan(config, preset, samples, hardware, like=like), preset, as_json=as_json)
        return
    given = ("changes", "ablation", "weights", "weights_format", "weights_share", "resume")
    refuse(given, extend is not None, "--extend goes on with the settings of the run")
    with shared_process() as device:
        folder = find_shards(shards, datasets, name)
        run = find_run(run, folder, preset)
        stored = stored_config(run) if resume and not any(map(is_typed, ("preset", "changes", "ablation"))) else None
        if extend is not None:
            from protoocc.run_folder import prolong

            stored = prolong(run, extend, folder)
        config = stored or protoocc.read_preset(preset, changes or (), ablation=ablation)
        config = with_weights(config, weights, weights_format, weights_share)
        if resume and weights is None:
            config = with_stored_weights(config, run)
        is_going_on = resume or extend is not None
        summary = train_with_bar(config, folder, run, resume=is_going_on, processes=nproc or 1, device=device)
        if is_first():
            finish_report(run, folder)
    if as_json and is_first():
        import dataclasses
        import json

        typer.echo(json.dumps(dataclasses.asdict(summary), default=str, indent=1))


def count_samples(shards: Path, split: str) -> int:
    """Samples of a split.

    Raises:
        DataError: no such split, or the shards are damaged.
    """
    from protoocc.data import open_shards

    return len(open_shards(shards, split).samples)


def show_plan(plan: Plan, preset: str, *, as_json: bool) -> None:
    """Prints what a run will cost."""
    from cli.plan import print_plan

    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps(dataclasses.asdict(plan), indent=1))
    else:
        print_plan(plan, preset)


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


def train_with_bar(
    config: TrainConfig,
    shards: Path,
    run: Path,
    *,
    resume: bool,
    processes: int = 1,
    device: torch.device | None = None,
) -> TrainSummary:
    """Trains under a progress bar that shows the losses, memory and waiting, and prints how the losses fell.

    The report is left to whoever calls: scores, where they follow, write it.

    Args:
        config: complete settings.
        shards: folder of `protoocc pack`.
        run: run folder.
        resume: continue what is there.
        processes: number that is started.
        device: of this process; None for the trainer's choice.
    """
    import protoocc
    from protoocc.launch import launch
    from protoocc.training_report import losses_at_work

    alone = partial(protoocc.train, device=device)
    if not is_first():
        return alone(config, shards, run, resume=resume)
    start = alone if processes == 1 else partial(launch, processes)
    with progress_bar("train", "steps") as update:
        is_noted = False
        lately: deque[StepReport] = deque(maxlen=50)

        def show(report: StepReport) -> None:
            nonlocal is_noted
            if not is_noted:
                note_shards(run, shards)
                is_noted = True
            lately.append(report)
            update(report.step, report.steps, note_of(lately))

        summary = start(config, shards, run, resume=resume, on_step=show)
    falls = ", ".join(
        f"{name} {summary.first[name]:.3f} -> {summary.last[name]:.3f}" for name in losses_at_work(summary.first)
    )
    say(
        f"train: {summary.steps} steps on {summary.samples} samples in {summary.seconds:.1f} s; {falls}; "
        f"{name_of(summary.checkpoint)}"
    )
    return summary


def note_of(reports: Sequence[StepReport]) -> str:
    """What stands behind a bar or in a line: losses and memory of the last step, share of the time spent on waiting."""
    from protoocc.training_report import losses_at_work

    last, seconds = reports[-1], sum(report.seconds for report in reports)
    losses = " ".join(f"{name} {last.losses[name]:.3f}" for name in losses_at_work(last.losses))
    waiting = 100 * sum(report.data_seconds for report in reports) / max(seconds, 1e-9)
    return f"{losses}, {last.memory_gb:.1f} GB, {waiting:.0f} % waiting for data"
