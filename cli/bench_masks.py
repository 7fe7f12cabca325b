"""The command `bench masks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from cli.options import Json, expected
from cli.say import answers, say

if TYPE_CHECKING:
    from pipelines.bench_masks import MasksBench
    from pipelines.masks import SamConfig
    from pipelines.masks.bench_sam import SamBench

LIMITS: Final = {"seeds_ratio": 0.85, "sam_times_after_encoder": 2.0, "sam_least_iou": 0.999}
"""What is wanted: the stage against bare OpenCV, and Segment Anything against the library on a CPU, with its masks."""


def masks(
    samples: Annotated[
        int, typer.Option("--samples", min=128, help="Keyframes of six photos for SEEDS; tasks have 32.")
    ] = 384,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the stage and of bare OpenCV.")] = 2,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--sam-checkpoint", help="Also measure Segment Anything, this file.", show_default=False),
    ] = None,
    random: Annotated[
        str | None,
        typer.Option("--sam-random", help="Or random weights: vit_b, vit_l, vit_h or vit_t.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Of Segment Anything: cpu or cuda.")] = "cpu",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of Segment Anything for both: name=value.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure mask generators against the bare libraries in one run, and hold their masks against each other.

    Photos are of a generated world. Random weights make masks whose boxes are all alike, so suppression is off there
    unless you set it. A `--set` of precision or compile holds for our side alone.

    Examples:

        protoocc bench masks --workers 2

        protoocc bench masks --sam-checkpoint weights/sam_vit_b_01ec64.pth --set points_per_side=8

        protoocc bench masks --sam-random vit_b --set points_per_side=8 --json
    """
    import tempfile

    from cli.sources import mask_generator
    from pipelines.bench_masks import bench_masks
    from pipelines.masks import SamConfig, SeedsConfig
    from pipelines.masks.sam_checkpoint import PUBLISHED

    if random is not None and random not in PUBLISHED:
        raise expected("--sam-random", random, PUBLISHED)
    apart = ["box_nms_thresh=1"] if random else []
    config = mask_generator("sam", checkpoint=checkpoint, device=device, changes=[*apart, *(changes or ())])
    if not isinstance(config, SamConfig):
        raise TypeError(f"{config} is not for Segment Anything")
    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as folder:
        photos = _photos(Path(folder))
        say(f"SEEDS: {6 * samples} photos on {workers} processes ...")
        seeds = bench_masks(Path(folder) / "bench", photos, samples, workers, SeedsConfig())
        sam = _bench_sam(config, random, photos[0]) if checkpoint or random else None
    if as_json:
        _print_json(seeds, sam)
    else:
        _print_tables(seeds, sam)


def _photos(folder: Path) -> list[Path]:
    """One photo of each camera of a generated world, 1600 x 900."""
    from pipelines.synth import SynthConfig, generate_world
    from schemas.datasets import NUSCENES_CAMERAS

    say("generating six photos ...")
    generate_world(folder / "world", SynthConfig(scenes=1, keyframes=1, sweeps_per_keyframe=0, image_width=1600))
    return [next((folder / "world/samples" / channel).iterdir()) for channel in NUSCENES_CAMERAS]


def _bench_sam(config: SamConfig, random: str | None, photo: Path) -> SamBench:
    import cv2

    from pipelines.images import read_image
    from pipelines.masks.bench_sam import bench_sam

    say(
        f"Segment Anything: one image of 800 x 450, {config.points_per_side}^2 points, first the library, then ours ..."
    )
    image = cv2.resize(read_image(photo, "bench"), (800, 450), interpolation=cv2.INTER_AREA)
    return bench_sam(config, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), random)


def _print_json(seeds: MasksBench, sam: SamBench | None) -> None:
    import dataclasses
    import json

    answer: dict[str, object] = {
        "seeds": dataclasses.asdict(seeds) | {"ratio": seeds.ratio, "core_ratio": seeds.core_ratio},
        "limits": LIMITS,
    }
    if sam is not None:
        figures = {"times_after_encoder": sam.times_after_encoder, "times": sam.library.total_s / sam.ours.total_s}
        answer["sam"] = dataclasses.asdict(sam) | figures
    typer.echo(json.dumps(answer, indent=1))


def _print_tables(seeds: MasksBench, sam: SamBench | None) -> None:
    table = Table(title=f"SEEDS, {seeds.images} photos, {seeds.workers} processes", title_justify="left")
    for head in ("", "images per second", "per core-second"):
        table.add_column(head, justify="right" if head else "left")
    table.add_row(
        "masks stage, decoding and writing included", f"{seeds.stage_per_s:.1f}", f"{seeds.stage_per_core_s:.1f}"
    )
    table.add_row("bare OpenCV, decoding included", f"{seeds.bare_per_s:.1f}", f"{seeds.bare_per_core_s:.1f}")
    answers().print(table)
    answers().print(
        f"{seeds.ratio:.2f} of the bare library, {seeds.core_ratio:.2f} by core; wanted {LIMITS['seeds_ratio']}"
    )
    if sam is None:
        return
    table = Table(title="Segment Anything, seconds of one image", title_justify="left")
    for head in ("", "encoder", "the rest", "masks"):
        table.add_column(head, justify="right" if head else "left")
    for name, timing, count in (("library", sam.library, sam.masks[0]), ("ours", sam.ours, sam.masks[1])):
        table.add_row(name, f"{timing.encoder_s:.1f}", f"{timing.rest_s:.1f}", str(count))
    answers().print(table)
    answers().print(
        f"{sam.times_after_encoder:.2f} times as fast after the encoder, wanted {LIMITS['sam_times_after_encoder']}; "
        f"least IoU of a mask with the library's {sam.least_iou:.6f}"
    )
