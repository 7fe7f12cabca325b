"""The command `bench loader`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.model import Shards, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json, expected
from cli.progress import progress_bar
from cli.say import answers

if TYPE_CHECKING:
    from protoocc.bench.loader_result import LoaderBench, LoaderRatio


def loader(
    split: Annotated[str, typer.Option("--split", help="Split to read.")] = "train",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="decode, bytes, stream or open; may be repeated. All by default.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of one round of decoding.")] = 64,
    streamed: Annotated[
        int, typer.Option("--streamed", min=64, help="Samples of the set that bytes and stream read.")
    ] = 320,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds; the best counts.")] = 3,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read, of all ways.")] = 2,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Folder of JPEGs of 1600x900 that the peers' way reads; the samples' own, enlarged, by default.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    as_json: Json = False,
) -> None:
    """Measure how fast packed shards are read, beside the ways of others and what the machine can do.

    decode: samples decoded, beside bare decoding, the files that loaders of raw data read, litdata and
    mosaicml-streaming. bytes: beside reading the tars from end to end. stream: batches of training from a web server
    with 50 ms and 100 MB/s, beside the folder. open: the index of all 34,149 keyframes of nuScenes.

    Takes about three minutes on two cores. The two libraries come with pip install 'protoocc[bench]'.

    Examples:

        protoocc bench loader --dataset nuscenes-mini

        protoocc bench loader --shards /data/shards --split val --only decode --json

        protoocc bench loader --shards demo/work/shards --images /data/nuscenes/samples
    """
    from protoocc.bench.loader import measure_loader
    from protoocc.bench.loader_result import PARTS, LoaderChoice

    for word in only or ():
        if word not in PARTS:
            raise expected("--only", word, PARTS)
    if images is not None and next(images.rglob("*.jpg"), None) is None:
        raise expected("--images", images, ("a folder with .jpg files",))
    choice = LoaderChoice(
        parts=tuple(part for part in PARTS if part in (only or PARTS)),
        samples=samples,
        streamed=streamed,
        rounds=rounds,
        workers=workers,
        images=images,
    )
    folder = find_shards(shards, datasets, name)
    with progress_bar("loader", "rounds") as update:
        result = measure_loader(folder, split, choice, update)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        _print(result)


def _print(result: LoaderBench) -> None:
    from rich.table import Table

    height, width = result.image_shape
    shown = Table(
        title=f"Reading {result.shards}, split {result.split}",
        caption=f"Images of {height} x {width}, {result.workers} processes, {result.samples} samples decoded, best of "
        f"{result.rounds} interleaved rounds.",
    )
    for title in ("part", "way"):
        shown.add_column(title, no_wrap=True)
    shown.add_column("best", justify="right", no_wrap=True)
    shown.add_column("what")
    for row in result.rows:
        shown.add_row(row.part, row.way, "-" if row.best is None else f"{row.best:,.1f} {row.unit}", row.note)
    wanted = Table()
    wanted.add_column("figure")
    for title in ("measured", "wanted", ""):
        wanted.add_column(title, justify="right", no_wrap=True)
    for ratio in result.ratios:
        wanted.add_row(ratio.what, f"{ratio.value:.2f}", _bound(ratio), "met" if ratio.is_met else "missed")
    console = answers()
    console.width = max(console.width, 120)
    console.print(shown)
    console.print(wanted)


def _bound(ratio: LoaderRatio) -> str:
    return f"{'at most' if ratio.is_most else 'at least'} {ratio.wanted:g}"
