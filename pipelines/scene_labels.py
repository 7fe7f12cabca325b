"""Labels of one scene for your own Python: the stages `prepare` and `occupancy`, on that scene alone."""

from __future__ import annotations

from pathlib import Path

from pipelines.occupancy import LidarConfig, OccupancyConfig, make_occupancy
from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored import dropped_tokens, open_labels, stored_labels
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.records import read_index
from schemas.workfolder import WorkFolder

__all__ = ["label_scene"]

_IN_THIS_PROCESS = Runtime(scheduler=Scheduler(kind="sync"))


def label_scene(
    dataset: DatasetSpec,
    scene: str,
    work: Path,
    source: OccupancyConfig | None = None,
    runtime: Runtime = _IN_THIS_PROCESS,
) -> dict[str, Labels]:
    """Makes or imports the labels of all keyframes of a scene, as `protoocc prepare` and `protoocc occupancy` do.

    Args:
        dataset: entry of `datasets.yaml` (`schemas.datasets.load_datasets`); its splits do not count.
        scene: name of the scene.
        work: folder for records and labels of this scene; finished work in it is read again.
        source: where labels come from; from LiDAR sweeps and boxes with the default settings if not given.
        runtime: scheduler and what happens to bad keyframes.

    Returns:
        `semantics`, `mask_lidar` and `mask_camera`, each uint8 (X, Y, Z) in the ego frame, by sample token and in order
        of time; without keyframes that ``runtime`` let drop.

    Raises:
        ConfigError: no such scene, or ``work`` was made with other settings.
        DataError: raw data is missing or broken.
        StageError: keyframes are broken.
    """
    alone = dataset.model_copy(update={"splits": {"scene": SplitSpec(scenes=(scene,))}})
    prepare(alone, work, runtime)
    make_occupancy(alone, work, LidarConfig() if source is None else source, runtime)
    dropped = dropped_tokens(alone, work)
    kept = [entry for entry in read_index(WorkFolder(work).records) if entry.token not in dropped]
    store = open_labels(work)
    return {entry.token: stored_labels(store, entry.row, entry.token) for entry in kept}
