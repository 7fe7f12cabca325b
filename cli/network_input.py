"""What a trained network is given: packed shards, the raw images of a prepared dataset, or a user's photos."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import refuse
from cli.model import find_run, find_shards
from cli.options import load_dataset
from cli.say import say
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from protoocc.config import TrainConfig
    from protoocc.predictions_source import Source

Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="Run folder or one checkpoint; with --shards or --dataset `runs/<dataset>-<preset>` by default.",
        show_default=False,
    ),
]

DepthMaps = Annotated[
    list[Path] | None,
    typer.Option(
        "--depth-maps",
        help="Networks that read depth: folder with a .npy (metres) or 16-bit .png (metres * 256) for each photo or "
        "camera file, at its path; repeated as --images is. By default --records takes the LiDAR's points.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """Options of a command that runs a trained network."""

    calibration: Path | None
    """File of the cameras of a user's photos."""
    images: list[Path] | None = None
    """Folders of the photos of that file; None for its own."""
    records: bool
    """Raw images of the dataset, not its shards."""
    depth_maps: list[Path] | None
    split: str
    preset: str
    name: str | None
    """Of the dataset."""
    datasets: Path
    shards: str | None
    """Folder or address."""
    run: Path | None

    def __post_init__(self) -> None:
        """Refuses what does not apply.

        Raises:
            ConfigError: an option that nobody would read was typed.
        """
        photos = "--calibration names your own photos"
        refuse(("name", "datasets", "shards", "split", "records", "preset"), self.calibration is not None, photos)
        refuse(("shards",), self.records, "--records reads raw images, not shards")
        refuse(("preset",), self.run is not None, "--run names the run already, which knows its network")

    @cached_property
    def checkpoint(self) -> Path:
        """The run folder or checkpoint: given, or `runs/<dataset>-<preset>`.

        Raises:
            ConfigError: own photos name no dataset whose run could be meant, or there are no shards.
        """
        shards = self._shards
        if self.run is not None:
            return self.run
        if shards is not None:
            return find_run(None, shards, self.preset)
        if self.calibration is not None:
            raise ConfigError("--calibration needs --run, the run or checkpoint of the network")
        return Path("runs") / f"{load_dataset(self.datasets, self.name, None).name}-{self.preset}"

    def open(self, config: TrainConfig, *, single_frame: bool) -> Source:
        """What a network of these settings reads.

        Raises:
            ConfigError: depth maps that nobody would read, no such split, or shards and records that do not fit.
            DataError: something is missing or damaged.
        """
        shards = self._shards
        refuse(("depth_maps",), shards is not None, "shards hold the depth that they were packed with")
        is_deaf = self.depth_maps is not None and not config.model.reads_depth
        refuse(("depth_maps",), is_deaf, "this network reads no depth")
        if self.calibration is not None:
            return self._photos(self.calibration, config)
        if shards is not None:
            return _shards(shards, self.split, config, single_frame=single_frame)
        return self._records(config, single_frame=single_frame)

    @cached_property
    def _shards(self) -> Path | None:
        """Folder of the shards; None where raw images are read."""
        if self.calibration is not None or self.records:
            return None
        return find_shards(self.shards, self.datasets, self.name)

    def _photos(self, calibration: Path, config: TrainConfig) -> Source:
        """Says what happened to each photo."""
        from cli.predict_sources import PhotoSource

        source = PhotoSource(calibration, self.images or [calibration.parent], self.depth_maps, config)
        for line in source.report:
            say(line)
        return source

    def _records(self, config: TrainConfig, *, single_frame: bool) -> Source:
        """The raw images of a split; says so where their size is not that of the training images."""
        from cli.predict_sources import RecordSource

        maps = self.depth_maps or ()
        if len(maps) > 1:
            raise ConfigError(f"--depth-maps was given {len(maps)} times: --records has one folder for all keyframes")
        dataset, own = load_dataset(self.datasets, self.name, None), next(iter(maps), None)
        source = RecordSource(dataset, self.split, config.model, depth_maps=own, single_frame=single_frame)
        if config.image_shape not in (None, source.image_shape):
            say(
                f"the images of {source.name} have {source.image_shape} rows and columns, the network was trained with "
                f"{config.image_shape}",
                "yellow",
            )
        return source


def _shards(folder: Path, split: str, config: TrainConfig, *, single_frame: bool) -> Source:
    """A split of packed shards that fit the network."""
    import protoocc
    from protoocc.compatibility import check_shards
    from protoocc.predictions_source import ShardSource

    opened = protoocc.open_shards(folder, split)
    check_shards(config, opened)
    return ShardSource(opened, config.model, single_frame=single_frame)
