"""The command `bench loader`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cli.model import Shards, find_shards
from cli.options import DATASETS_YAML, Dataset, Datasets, Json
from cli.progress import progress_bar


def loader(
    split: Annotated[str, typer.Option("--split", help="Split to read.")] = "train",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of one round, the first ones.")] = 64,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds of timing.")] = 5,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    shards: Shards = None,
    as_json: Json = False,
) -> None:
    """Measure how fast packed shards are read, beside bare decoding of the same bytes.

    One process, one thread: training with N workers reads up to N times as many samples per second.

    Examples:

        protoocc bench loader --dataset nuscenes-mini

        protoocc bench loader --shards /data/shards --split val --json
    """
    from protoocc.bench.loader import measure_loader

    folder = find_shards(shards, datasets, name)
    with progress_bar("loader", "rounds") as update:
        result = measure_loader(folder, split, samples=samples, rounds=rounds, on_progress=update)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"{result.samples} samples of split {result.split}, best of {result.rounds} rounds, one thread", markup=False
    )
    out.print(f"  reader        {result.reader_per_s:8.1f} samples/s  ({100 * result.share:.1f} % of the limit)")
    out.print(f"  bare decoding {result.limit_per_s:8.1f} samples/s  (the limit: the same bytes, unchecked)")
    out.print(f"  opening       {1000 * result.open_s:8.1f} ms for manifest and indexes")
