"""A generated world and its shards: what `demo` and `reproduce` learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipelines.masks import SamConfig, SeedsConfig
    from schemas.datasets import DatasetSpec, Format

DATASETS = "datasets.yaml"


@dataclass(frozen=True)
class World:
    """How large a generated world is.

    Attributes:
        scenes: number of scenes of each split; they follow each other in this order.
        keyframes: of each scene.
        width: of the generated images, pixels.
        seed: of the world.
        format: of its raw data.
    """

    scenes: Mapping[str, int]
    keyframes: int
    width: int
    seed: int
    format: Format = "nuscenes"

    def resized(self, scenes: Mapping[str, int | None], keyframes: int | None, width: int | None, seed: int) -> World:
        """The splits that are asked for, in the sizes that are asked for; None leaves one as it is."""
        counts = {split: count or self.scenes[split] for split, count in scenes.items()}
        return World(counts, keyframes or self.keyframes, width or self.width, seed, self.format)


KITTI_WORLD: Final = World({"train": 14, "val": 3, "test": 5}, keyframes=4, width=620, seed=0, format="semantickitti")
"""In SemanticKITTI's form, with sequences 00 to 21; `World.resized` leaves out splits that are not asked for."""


def make_world(folder: Path, world: World, works: Mapping[str, str]) -> dict[str, DatasetSpec]:
    """Generates a world, or finds it finished, and describes it in `datasets.yaml` beside it.

    Args:
        folder: where `world` and `datasets.yaml` lie.
        world: its size.
        works: entry of `datasets.yaml` -> its work folder below ``folder``.

    Returns:
        The entries.

    Raises:
        ConfigError: the folder holds a world whose scenes are in other splits.
        DataError: it holds another world.
    """
    from cli.synth import synth
    from schemas.datasets import load_datasets

    path = folder / DATASETS
    _check_splits(path, world, works)
    total, is_kitti = sum(world.scenes.values()), world.format == "semantickitti"
    synth(
        folder / "world",
        world_format=world.format,
        scenes=total,
        keyframes=world.keyframes,
        seed=world.seed,
        width=world.width,
        slope=0.0,
        sweeps=None if is_kitti else 1,
        azimuths=512 if is_kitti else None,
    )
    _write_entries(path, _datasets_yaml(world, works).encode())
    return load_datasets(path)


def _write_entries(path: Path, data: bytes) -> None:
    """Writes `datasets.yaml` unless it is there as it should be: another process may read the same world."""
    from schemas.files import write_bytes

    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def make_shards(dataset: DatasetSpec, masks: SeedsConfig | SamConfig) -> Path:
    """Runs all stages of one entry, or finds them finished; the labels are the exact ones of the world.

    SemanticKITTI's shards hold LiDAR depth, which its networks read.

    Args:
        dataset: entry of `make_world`.
        masks: which pseudo masks are made and packed.

    Returns:
        The folder of shards.
    """
    from cli.data import run_with_bar
    from cli.progress import make_scheduler
    from pipelines.masks import generator_name, make_masks
    from pipelines.occupancy import SOURCE_OF_FORMAT, make_occupancy
    from pipelines.pack import PackConfig, pack
    from pipelines.prepare import prepare
    from schemas.workfolder import WorkFolder

    work, labels = dataset.work, SOURCE_OF_FORMAT[dataset.format]
    config = PackConfig(masks=generator_name(masks), depth=dataset.format == "semantickitti")
    run_with_bar("prepare", lambda runtime: prepare(dataset, work, runtime), scheduler=make_scheduler("sync"))
    run_with_bar("occupancy", lambda runtime: make_occupancy(dataset, work, labels, runtime))
    run_with_bar("masks", lambda runtime: make_masks(dataset, work, masks, runtime))
    run_with_bar("pack", lambda runtime: pack(dataset, work, config, runtime))
    return WorkFolder(work).shards


def _check_splits(path: Path, world: World, works: Mapping[str, str]) -> None:
    """Compares the splits of an earlier run with those that are asked for.

    Raises:
        ConfigError: they differ, or the file is damaged.
    """
    from schemas.datasets import load_datasets
    from schemas.errors import ConfigError

    known = load_datasets(path) if path.is_file() else {}
    for entry in known.keys() & works.keys():
        found = {name: len(split.scenes or ()) for name, split in known[entry].splits.items()}
        if found != dict(world.scenes):
            raise ConfigError(
                f"{path}: it has scenes for {_listed(found)}; asked for {_listed(world.scenes)}. Give the same numbers "
                "or choose another folder."
            )


def _listed(scenes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in scenes.items())


def _datasets_yaml(world: World, works: Mapping[str, str]) -> str:
    import yaml

    names = iter(_scene_names(world))
    splits = {split: {"scenes": [next(names) for _ in range(count)]} for split, count in world.scenes.items()}
    entry = {"root": "world", "licence": "CC0-1.0", **_layout(world), "splits": splits}
    text: str = yaml.safe_dump({name: {**entry, "work": work} for name, work in works.items()}, sort_keys=False)
    return text


def _scene_names(world: World) -> list[str]:
    from pipelines.synth import sequence_name

    numbers = range(sum(world.scenes.values()))
    return [sequence_name(n) if world.format == "semantickitti" else f"synth-{n:04d}" for n in numbers]


def _layout(world: World) -> dict[str, Any]:
    """What an entry says of its format, and how the network sees the images."""
    if world.format == "semantickitti":
        from pipelines.synth import KittiConfig

        width, height = KittiConfig(image_width=world.width).image_size
        return {"format": world.format, "image": {"resize": None, "crop": [0, 0, min(width, 1220), min(height, 370)]}}
    return {
        "format": world.format,
        "version": "v1.0-synth",
        "image": {"resize": [288, 162], "crop": [0, 6, 288, 154]},
        "grid": {"minimum_m": [-40.0, -40.0, -1.0], "voxel_size_m": 0.4, "shape": [200, 200, 16]},
        "classes": "occ3d",
    }
