"""`protoocc export`: a checkpoint as an ONNX file, checked in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.given import add_command
from cli.model import Preset, Shards
from cli.network_input import DepthMaps, NetworkInput, Run
from cli.options import DATASETS_YAML, Dataset, Datasets, Json
from cli.say import answers, name_of, say


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, export)


def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="The file to write; its card is called `<file>.json`.")] = Path(
        "protoocc.onnx"
    ),
    rig: Annotated[
        Literal["fixed", "input"],
        typer.Option("--rig", help="fixed: the calibration is a part of the graph, for one rig; input: it goes in."),
    ] = "fixed",
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", help="Take the rig from a calibration file, as `protoocc predict`.", show_default=False
        ),
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="Take the rig from the records of `protoocc prepare`, not from shards.")
    ] = False,
    depth_maps: DepthMaps = None,
    split: Annotated[str, typer.Option("--split", help="Split whose first sample gives the rig.")] = "val",
    preset: Preset = "demo",
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as an ONNX file and compare it with PyTorch on the spot.

    Needs the extra packages of `pip install 'protoocc[export]'`. The graph has opset 20 and runs in onnxruntime; the
    card beside it names inputs, units, classes and the grid. A file that differs by more than 1e-3 is not kept.

    Examples:

        protoocc export --run runs/nuscenes-protoocc-small --dataset nuscenes --onnx small.onnx

        protoocc export --run runs/nuscenes-protoocc-small --shards /data/shards --rig input

        protoocc export --run runs/nuscenes-protoocc-small --calibration car/calibration.yaml
    """
    from protoocc.checkpoint import load_config, load_network
    from protoocc.export import ExportOptions, export_onnx
    from protoocc.predictions_source import to_batch

    given = NetworkInput(
        calibration=calibration,
        records=records,
        depth_maps=depth_maps,
        split=split,
        preset=preset,
        name=name,
        datasets=datasets,
        shards=shards,
        run=run,
    )
    checkpoint = given.checkpoint
    config = load_config(checkpoint)
    source = given.open(config, single_frame=False)
    network, _ = load_network(checkpoint)
    sample = to_batch(source.moments[:1], [source.read(0)], network.config.frames)
    options = ExportOptions(cameras=source.cameras, calibration=rig)
    summary = export_onnx(network, config, sample, onnx, options, lambda step: say(f"export: {step} ..."))
    if as_json:
        import dataclasses
        import json

        found = dataclasses.asdict(summary) | {"differences": [one.model_dump() for one in summary.differences]}
        typer.echo(json.dumps(found, default=str, indent=1))
        return
    for one in summary.differences:
        say(
            f"{one.case}: largest difference of a logit {one.largest:.1e}, {one.classes} of {one.voxels} voxels get "
            "another class",
            to=answers(),
        )
    say(f"export: {summary.num_bytes / 1e6:.1f} MB in {name_of(summary.model)}, card in {name_of(summary.card)}")
