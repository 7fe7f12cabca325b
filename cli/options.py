"""Options that several commands share, so that the same thing has the same name and help everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.stage import OnError
    from schemas.datasets import DatasetSpec

Dataset = Annotated[
    str | None, typer.Option("--dataset", help="Entry of datasets.yaml; the first one by default.", show_default=False)
]
Datasets = Annotated[Path, typer.Option("--datasets", help="The YAML file that describes your datasets.")]
Work = Annotated[
    Path | None,
    typer.Option("--out", help="Work folder of the dataset; `work` of its entry by default.", show_default=False),
]
SchedulerKind = Annotated[
    str, typer.Option("--scheduler", help="processes, threads, sync (for debugging) or a Dask address tcp://HOST:PORT.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Parallel workers; all cores by default.")]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        help="Memory of each worker process: 4GiB, or 0.5 for that share of the machine's. By default all workers "
        "together get nine tenths.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Make a finished stage again; the old one stays until the new one is whole.")
]
DropBad = Annotated[
    str, typer.Option("--on-error", help="fail: stop on a broken sample; drop: leave it out, counted, with its reason.")
]
CheckInputs = Annotated[
    bool,
    typer.Option("--check-inputs", help="Compare the contents of all raw files with what was read, not size and time."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting: path=value. May be repeated.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON for programs.")]

DATASETS_YAML = Path("datasets.yaml")


def load_dataset(datasets: Path, name: str | None, out: Path | None) -> DatasetSpec:
    """The chosen entry of datasets.yaml, with ``out`` in place of its work folder if given."""
    from schemas.datasets import load_datasets, select_dataset

    dataset = select_dataset(load_datasets(datasets), name)
    return dataset if out is None else dataset.model_copy(update={"work": out.absolute()})


def check_on_error(value: str) -> OnError:
    """`fail` or `drop`.

    Raises:
        ConfigError: something else.
    """
    if value == "fail":
        return "fail"
    if value == "drop":
        return "drop"
    from schemas.errors import ConfigError

    raise ConfigError(f"--on-error {value}: expected fail or drop")
