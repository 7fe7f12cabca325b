"""`protoocc synth`: a generated world with exact truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import add_command
from cli.options import MemoryLimit, SchedulerKind, Workers
from cli.progress import make_scheduler, progress_bar
from cli.say import name_of, say

if TYPE_CHECKING:
    from pipelines.synth import KittiConfig


def register(app: typer.Typer) -> None:
    """Adds the command of this module."""
    add_command(app, synth)


def synth(
    out: Annotated[Path, typer.Argument(help="Folder for the world; it becomes the `root` of a dataset.")],
    world_format: Annotated[str, typer.Option("--format", help="nuscenes or semantickitti.")] = "nuscenes",
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Number of scenes.")] = 4,
    keyframes: Annotated[int, typer.Option("--keyframes", min=1, help="Keyframes of each scene (2 per second).")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            min=64,
            help="Image width in pixels, 800 by default, height 9/16 of it; semantickitti: 1241, 376/1241 of it.",
            show_default=False,
        ),
    ] = None,
    sweeps: Annotated[
        int | None,
        typer.Option(
            "--sweeps",
            min=0,
            max=9,
            help="nuscenes: LiDAR sweeps between two keyframes, 9 by default, which is 20 Hz.",
            show_default=False,
        ),
    ] = None,
    azimuths: Annotated[
        int | None,
        typer.Option(
            "--azimuths",
            min=64,
            max=4096,
            help="semantickitti: directions of each of the 64 beams in a scan, 1024 by default.",
            show_default=False,
        ),
    ] = None,
    slope: Annotated[
        float, typer.Option("--slope", min=0.0, max=0.08, help="Steepest slope of the ground, metres per metre.")
    ] = 0.03,
    depth: Annotated[
        bool, typer.Option("--depth", help="Also write the exact depth of each pixel, 16-bit PNG in centimetres.")
    ] = False,
    scheduler: SchedulerKind = "processes",
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Generate a driving world in nuScenes or SemanticKITTI format, with exact occupancy and per-pixel truth.

    Examples:

        protoocc synth data/synthetic --scenes 4 --keyframes 20 --seed 0

        protoocc synth /tmp/tiny --scenes 1 --keyframes 2 --width 400

        protoocc synth data/pixels --scenes 40 --seed 1000 --width 288 --depth

        protoocc synth /shared/world --scenes 850 --keyframes 40 --scheduler tcp://head:8786

        protoocc synth data/synthetic-kitti --format semantickitti --scenes 6 --keyframes 4
    """
    from pydantic import ValidationError

    from pipelines.stage import Runtime
    from pipelines.synth import KittiConfig, SynthConfig, generate_world
    from schemas.errors import ConfigError
    from schemas.settings import describe_validation

    common = {"scenes": scenes, "keyframes": keyframes, "seed": seed, "slope": slope, "depth": depth}
    chosen = {"image_width": width, "sweeps_per_keyframe": sweeps, "azimuths": azimuths}
    if world_format not in ("nuscenes", "semantickitti"):
        raise ConfigError(f"--format {world_format}: expected nuscenes or semantickitti")
    is_kitti = world_format == "semantickitti"
    for option, values, other in (("--sweeps", sweeps, is_kitti), ("--azimuths", azimuths, not is_kitti)):
        if values is not None and other:
            raise ConfigError(f"{option} does not belong to --format {world_format}; leave it out.")
    try:
        kind: type[KittiConfig | SynthConfig] = KittiConfig if is_kitti else SynthConfig
        config = kind.model_validate({**common, **{key: value for key, value in chosen.items() if value is not None}})
    except ValidationError as error:
        raise ConfigError(describe_validation("synth", error)) from error
    with progress_bar("synth", "keyframes") as update:
        runtime = Runtime(make_scheduler(scheduler, workers, memory_limit), on_progress=update, on_note=say)
        summary = generate_world(out, config, runtime)
    done_before = "already done, " if summary.is_skipped else ""
    say(
        f"synth: {done_before}{summary.keyframes} keyframes, {len(summary.voxels)} classes, {summary.seconds:.1f} s, "
        f"{summary.num_bytes / 1e6:.1f} MB in {name_of(out)}"
    )
    if isinstance(config, KittiConfig):
        say(f"  entry of datasets.yaml: {_kitti_entry(out, config)}")


def _kitti_entry(out: Path, config: KittiConfig) -> str:
    """One line of YAML; the crop is that of KITTI's images unless these are smaller."""
    width, height = config.image_size
    image = "" if width >= 1220 else f"image: {{resize: null, crop: [0, 0, {width}, {height}]}}, "
    splits = "splits: {train: {official: train}, val: {official: val}}"
    return f"made: {{format: semantickitti, root: {out}, {image}{splits}}}"
