"""The command `bench stores`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.options import DATASETS_YAML, Dataset, Datasets, Json, Work, load_dataset
from cli.say import answers

if TYPE_CHECKING:
    from pipelines.bench_stores import StoreCost


def stores(
    reads: Annotated[int, typer.Option("--reads", min=4, help="Random rows that each way reads.")] = 1000,
    name: Dataset = None,
    datasets: Datasets = DATASETS_YAML,
    out: Work = None,
    as_json: Json = False,
) -> None:
    """Measure the stores of a dataset: bytes a sample and random reads, beside zarr alone and one npz per sample.

    Rates are of one core, in CPU time. Reads of the stores check the sums of row and sample, the others check nothing.

    Examples:

        protoocc bench stores --dataset nuscenes-mini

        protoocc bench stores --dataset nuscenes-mini --reads 5000 --json
    """
    import dataclasses
    import json
    import tempfile
    from pathlib import Path

    from pipelines.bench_stores import bench_stores

    dataset = load_dataset(datasets, name, out)
    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as folder:
        costs = bench_stores(dataset.work, Path(folder), reads)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(cost) for cost in costs], indent=1))
    else:
        _print_table(costs, reads)


def _print_table(costs: list[StoreCost], reads: int) -> None:
    table = Table(title=f"{reads} random samples of each store, one core", title_justify="left")
    table.add_column("store", no_wrap=True)
    for head in ("samples", "bytes a sample", "as npz", "reads/s", "zarr alone", "npz"):
        table.add_column(head, justify="right")
    for cost in costs:
        sizes = (f"{size:,.0f}" for size in (cost.bytes_per_sample, cost.npz_bytes_per_sample))
        rates = (f"{rate:,.0f}" for rate in (cost.reads, cost.bare_reads, cost.npz_reads))
        table.add_row(cost.name, str(cost.samples), *sizes, *rates)
    answers().print(table)
