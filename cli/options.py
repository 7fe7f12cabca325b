"""Options that several commands share, so that the same thing has the same name and help everywhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from pipelines.stage import OnError
    from schemas.datasets import DatasetSpec
    from schemas.errors import ConfigError
    from schemas.raw import RawSource

Dataset = Annotated[
    str | None, typer.Option("--dataset", help="Entry of datasets.yaml; the first one by default.", show_default=False)
]
Datasets = Annotated[Path, typer.Option("--datasets", help="The YAML file that describes your datasets.")]
Work = Annotated[
    Path | None,
    typer.Option("--out", help="Work folder of the dataset; `work` of its entry by default.", show_default=False),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root", help="Raw data folder instead of the entry's; later stages remember it.", show_default=False
    ),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--version", help="Table version instead of the entry's; later stages remember it.", show_default=False
    ),
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
SCHEDULERS: Final = ("processes", "threads", "sync")


def sized(flag: str, least: int, text: str) -> Any:
    """The option of a size of a generated world, whose default depends on what is made of it; the help says it."""
    return typer.Option(flag, min=least, help=text, show_default=False)


def load_dataset(
    datasets: Path, name: str | None, out: Path | None, *, root: Path | None = None, version: str | None = None
) -> DatasetSpec:
    """The chosen entry of datasets.yaml with ``out`` as its work folder and the raw data that it was prepared from.

    Raises:
        ConfigError: no such entry, or ``root`` or ``version`` are not those that `prepare` used.
    """
    dataset = _entry(datasets, name, out)
    prepared = with_raw(dataset, stored_raw(dataset))
    for option, asked, used in (("root", _absolute(root), prepared.root), ("version", version, prepared.version)):
        if asked is not None and asked != used:
            from schemas.errors import ConfigError

            raise ConfigError(
                f"--{option} {asked}: {dataset.work} belongs to {used}. Run `protoocc prepare {dataset.name} "
                f"--{option} {shlex.quote(str(asked))}` first; what is finished stays where the tables are the same."
            )
    return prepared


def load_for_prepare(
    datasets: Path, name: str | None, out: Path | None, *, root: Path | None, version: str | None
) -> tuple[DatasetSpec, RawSource]:
    """As `load_dataset`, but ``root`` and ``version`` replace those used before; also what to store of them."""
    from schemas.raw import RawSource

    entry = _entry(datasets, name, out)
    before = stored_raw(entry)
    dataset = with_raw(entry, RawSource(root=_absolute(root) or before.root, version=version or before.version))
    raw = RawSource(
        root=None if dataset.root == entry.root else dataset.root,
        version=None if dataset.version == entry.version else dataset.version,
    )
    return dataset, raw


def stored_raw(dataset: DatasetSpec) -> RawSource:
    """What `prepare --root` and `--version` left in the dataset's work folder."""
    from schemas.raw import read_raw

    return read_raw(dataset.work)


def with_raw(dataset: DatasetSpec, raw: RawSource) -> DatasetSpec:
    """The dataset with other raw data."""
    changes = {"root": raw.root, "version": raw.version}
    return dataset.model_copy(update={key: value for key, value in changes.items() if value is not None})


def _entry(datasets: Path, name: str | None, out: Path | None) -> DatasetSpec:
    from schemas.datasets import load_datasets, select_dataset

    dataset = select_dataset(load_datasets(datasets), name)
    return dataset if out is None else dataset.model_copy(update={"work": out.absolute()})


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def expected(option: str, value: object, known: Iterable[str]) -> ConfigError:
    """The error for a word that an option does not take, with the nearest one that it does."""
    from schemas.errors import ConfigError, did_you_mean

    words = list(known)
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return ConfigError(f"{option} {value}: expected {listed}.{did_you_mean(str(value), words)}")


def check_on_error(value: str) -> OnError:
    """`fail` or `drop`.

    Raises:
        ConfigError: something else.
    """
    if value == "fail":
        return "fail"
    if value == "drop":
        return "drop"
    raise expected("--on-error", value, ("fail", "drop"))


def check_parallel(scheduler: str) -> None:
    """Refuses a scheduler that is none, and `--workers` where nothing would follow it, before anything is touched.

    Raises:
        ConfigError: an unknown word, or an option that the scheduler ignores.
    """
    from cli.given import refuse

    if scheduler not in SCHEDULERS and "://" not in scheduler:
        raise expected("--scheduler", scheduler, (*SCHEDULERS, "an address tcp://HOST:PORT"))
    refuse(("workers",), scheduler == "sync", "--scheduler sync works in this process alone")
    refuse(("workers",), "://" in scheduler, f"the workers of {scheduler} were started elsewhere")
