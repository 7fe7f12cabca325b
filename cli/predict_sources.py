"""Moments to predict that come from raw images: the records of `prepare`, or a user's photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.predict_depth import Depth, PhotoDepth, RecordDepth
from pipelines.camera_frames import CameraFrame, photo_frame, photos_digest, record_frame, rig_images, seen_voxels
from pipelines.lineage import Origin, check_origin
from pipelines.manifests import content_of, read_manifest
from protoocc.config import TrainConfig
from protoocc.data.decode import Views, join_past
from protoocc.network import NetworkConfig
from protoocc.predictions_source import Moment, Shot
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import RecordEntry, each_record, read_index, read_records
from schemas.rig import load_rig
from schemas.shards import sample_key
from schemas.workfolder import WorkFolder


def _views(frame: CameraFrame, input_depth_m: Depth | None = None) -> Views:
    return Views(
        images=frame.images,
        image_from_camera=frame.image_from_camera,
        camera_from_ego=frame.camera_from_ego,
        global_from_ego=frame.global_from_ego,
        input_depth_m=input_depth_m,
    )


class RecordSource:
    """The keyframes of a split of a prepared dataset, from its raw images; needs no labels, masks or shards."""

    def __init__(
        self, dataset: DatasetSpec, split: str, config: NetworkConfig, *, depth_maps: Path | None, single_frame: bool
    ) -> None:
        """Reads the index.

        Raises:
            DataError: `prepare` has not finished.
            ConfigError: no such split, another grid, records that were made from something else, or the network reads
                depth and there is none.
        """
        self._depth = RecordDepth(dataset, depth_maps) if config.reads_depth else None
        folder = WorkFolder(dataset.work).records
        check_origin(Origin(dataset, stores={"records": folder}))
        if config.grid.frame != "ego" or dataset.grid.frame != "ego":
            raise ConfigError(f"predictions live in the ego frame; the grid of '{dataset.name}' is in the LiDAR's")
        if split not in dataset.splits:
            raise ConfigError(f"'{dataset.name}' has no split '{split}'; known: {', '.join(dataset.splits)}")
        entries = read_index(folder)
        self.name, self.cameras = f"{dataset.name}, split {split}, raw images", dataset.cameras
        self.image_shape = dataset.image.shape
        self._made_from = f"{content_of(read_manifest(folder))} {dataset.image_settings()}"
        self.entries = [entry for entry in entries if split in entry.splits]
        self.steps = [] if single_frame else [config.frame_interval * number for number in range(1, config.frames)]
        self._dataset, self._folder = dataset, folder
        self._places = {(entry.scene, entry.frame): entry for entry in entries}

    @property
    def fingerprint(self) -> str:
        """Of the records, and of depth maps where some are read.

        Raises:
            DataError: a keyframe lacks a depth map.
        """
        if self._depth is None:
            return self._made_from
        return f"{self._made_from} {self._depth.fingerprint(each_record(self._folder, self.entries))}"

    @property
    def moments(self) -> Sequence[Moment]:
        """The keyframes of the split that are kept."""
        return [Moment(e.token, sample_key(e.scene, e.frame), e.scene, e.frame) for e in self.entries]

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other moments."""
        self.entries = [self.entries[number] for number in numbers]

    def read(self, index: int) -> Shot:
        """Decodes the raw images of a keyframe, its depth where the network reads some, and its earlier keyframes.

        Earlier keyframes may belong to other splits. One before the start of a scene is replaced by the one after it.

        Raises:
            DataError: an image or what gives depth is missing or damaged.
        """
        entry = self.entries[index]
        chain = [entry]
        for step in self.steps:
            chain.append(self._places.get((entry.scene, entry.frame - step), chain[-1]))
        views = {one.row: self._read(one, self._depth if one is entry else None) for one in chain}
        past = join_past(views[entry.row], [views[one.row] for one in chain[1:]]) if self.steps else None
        return Shot(views[entry.row], past)

    def _read(self, entry: RecordEntry, depth: RecordDepth | None = None) -> Views:
        record = read_records(self._folder, [entry])[0]
        return _views(record_frame(self._dataset, record), None if depth is None else depth.read(record))


class PhotoSource:
    """Photos of one or more moments, all taken with the cameras of one calibration file."""

    def __init__(
        self, calibration: Path, folders: Sequence[Path], depth_maps: Sequence[Path] | None, config: TrainConfig
    ) -> None:
        """Reads the calibration file and the first photos.

        Raises:
            ConfigError: the file is wrong, no image size is known, a photo does not fit it, or the network reads depth
                and not each folder of photos has one of maps.
            DataError: a photo or its map is missing or damaged, or a camera sees nothing of the grid.
        """
        self._path, self._rig = calibration, load_rig(calibration)
        self._depth = PhotoDepth(calibration, self._rig, folders, depth_maps) if config.model.reads_depth else None
        self.folders = list(folders)
        self.name, self.cameras = calibration.name, tuple(self._rig.cameras)
        images = rig_images(calibration, self._rig, folders[0], config.image_shape)
        self._images = images
        frame = photo_frame(calibration, self._rig, folders[0], images)
        self.report = self._describe(frame, config)
        if self._depth is not None:
            self.report += self._depth.describe(self._depth.read(folders[0], images))
        photos = photos_digest(calibration, self._rig, folders)
        self.fingerprint = photos if self._depth is None else f"{photos} {self._depth.fingerprint}"

    def _describe(self, frame: CameraFrame, config: TrainConfig) -> list[str]:
        """What happened to each photo.

        Raises:
            ConfigError: a camera sees no voxel.
        """
        counts = seen_voxels(frame, config.model.grid)
        blind = [name for name, count in zip(self.cameras, counts, strict=True) if count == 0]
        if blind:
            raise ConfigError(
                f"{self._path}, camera '{blind[0]}': it has no voxel of the grid ({config.model.grid}) in its image. "
                "Correct ego_from_camera (metres, the camera looks along its z axis) or intrinsics."
            )
        height, width = frame.images.shape[1:3]
        why = "as the training images" if (height, width) == config.image_shape else "as the calibration file says"
        return [f"images of {width}x{height}, {why}"] + [report.describe() for report in self._images.values()]

    @property
    def moments(self) -> Sequence[Moment]:
        """One for each folder, called like it."""
        names = [folder.resolve().name or "photos" for folder in self.folders]
        return [Moment(name, name, name, None) for name in names]

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other moments."""
        self.folders = [self.folders[number] for number in numbers]

    def read(self, index: int) -> Shot:
        """Decodes the photos of a moment, and their depth maps where the network reads depth.

        Raises:
            DataError: a photo or map is missing, damaged or of another size than the first photo of its camera.
        """
        folder, images = self.folders[index], self._images
        depth_m = None if self._depth is None else self._depth.read(folder, images)
        return Shot(_views(photo_frame(self._path, self._rig, folder, images), depth_m))
