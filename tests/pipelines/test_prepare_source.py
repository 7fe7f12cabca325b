"""`prepare` on a source that lives in memory: bytes, kills, memory and what a finished run reads again."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.prepare import prepare
from pipelines.prepare.source import FileCheck, Hole, Keyframe, MapImage, Source
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError
from schemas.images import ImageSpec
from schemas.records import (
    RECORDS_FILE,
    BoxRecord,
    CameraRecord,
    LidarRecord,
    RigidPose,
    SampleRecord,
    read_index,
    read_records,
)

KEYFRAMES_PER_SCENE = 40


def name(*parts: object) -> str:
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def pose(x_m: float) -> RigidPose:
    return RigidPose(
        rotation_wxyz=(0.5123456789, 0.4987654321, 0.5012345678, 0.4876543218), translation_m=(x_m, 0.1, 0)
    )


def check_nothing(record: SampleRecord) -> Sequence[Hole]:
    """There are no files."""
    return ()


class GeneratedSource:
    """Drives of 40 keyframes at 10 m/s with 34 boxes and 9 sweeps each, as many as nuScenes has."""

    def __init__(self, dataset: DatasetSpec, samples: int) -> None:
        self.dataset, self.samples, self.reads = dataset, samples, 0

    def fingerprint(self) -> Mapping[str, str]:
        return {"generated": str(self.samples)}

    def raw_files(self) -> Sequence[Path]:
        return ()

    def keyframes(self) -> Sequence[Keyframe]:
        places = [divmod(number, KEYFRAMES_PER_SCENE) for number in range(self.samples)]
        return [Keyframe(name(*place), f"scene-{place[0]:04d}", place[1], ("train",)) for place in places]

    def read(self, keyframe: Keyframe) -> SampleRecord:
        self.reads += 1
        time_us = 500_000 * keyframe.frame
        own, *sweeps = [self._lidar(keyframe, time_us - 50_000 * age) for age in range(10)]
        return SampleRecord(
            token=keyframe.token,
            scene=keyframe.scene,
            frame=keyframe.frame,
            timestamp_us=time_us,
            previous=None,
            next=None,
            cameras={channel: self._camera(keyframe, channel, time_us) for channel in self.dataset.cameras},
            global_from_vehicle=own.global_from_ego,
            lidar=own,
            sweeps=tuple(reversed(sweeps)),
            boxes=tuple(self._box(keyframe, number) for number in range(34)),
            map_window=None,
            splits=keyframe.splits,
        )

    def map_image(self, scene: str) -> MapImage | None:
        return None

    def file_check(self) -> FileCheck:
        return check_nothing

    def _lidar(self, keyframe: Keyframe, time_us: int) -> LidarRecord:
        return LidarRecord(
            token=name(keyframe.token, time_us),
            path=f"sweeps/LIDAR_TOP/n015-2018-07-24-11-22-45+0800__LIDAR_TOP__{time_us:016d}.pcd.bin",
            timestamp_us=time_us,
            ego_from_lidar=pose(0.94),
            global_from_ego=pose(time_us * 1e-5),
        )

    def _camera(self, keyframe: Keyframe, channel: str, time_us: int) -> CameraRecord:
        return CameraRecord(
            token=name(keyframe.token, channel),
            path=f"samples/{channel}/n015-2018-07-24-11-22-45+0800__{channel}__{time_us:016d}.jpg",
            timestamp_us=time_us,
            width=1600,
            height=900,
            intrinsics=((1266.417203046554, 0.0, 816.2670197447984), (0.0, 1266.4, 491.507), (0.0, 0.0, 1.0)),
            ego_from_camera=pose(1.7),
            global_from_ego=pose(time_us * 1e-5),
        )

    def _box(self, keyframe: Keyframe, number: int) -> BoxRecord:
        return BoxRecord(
            token=name(keyframe.token, "box", number),
            instance=name(keyframe.scene, number),
            category="vehicle.car",
            label=4,
            global_from_box=pose(number + 0.123456789),
            size_lwh_m=(4.5, 1.9, 1.6),
            num_lidar_pts=17,
        )


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetSpec:
    return DatasetSpec(
        name="generated",
        format="nuscenes",
        root=tmp_path,
        version="none",
        work=tmp_path / "work",
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={"train": SplitSpec(official="train")},
    )


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_source_in_memory_is_a_source(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    source = GeneratedSource(dataset, 85)
    assert isinstance(source, Source)
    summary = prepare(dataset, dataset.work, sync_runtime, source)
    assert (summary.done, summary.counts["boxes"], summary.counts["sweeps"]) == (85, 85 * 34, 85 * 9)
    entries = read_index(dataset.work / "records")
    records = read_records(dataset.work / "records", entries)
    assert [entry.row for entry in entries] == list(range(85))
    assert [record.token for record in records] == [keyframe.token for keyframe in source.keyframes()]
    assert entries[-1].stop == (dataset.work / "records" / RECORDS_FILE).stat().st_size


def test_a_finished_run_reads_nothing(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    source = GeneratedSource(dataset, 3)
    prepare(dataset, dataset.work, sync_runtime, source)
    again = GeneratedSource(dataset, 3)
    again.keyframes = None  # type: ignore[assignment]  # calling it would fail
    assert prepare(dataset, dataset.work, sync_runtime, again).skipped
    assert (source.reads, again.reads) == (3, 0)
    with pytest.raises(ConfigError, match=r"inputs.generated: was '3', now '4'"):
        prepare(dataset, dataset.work, sync_runtime, GeneratedSource(dataset, 4))


@pytest.mark.parametrize("kept", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_after_some_scenes_gives_the_same_bytes(
    kept: int, dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    """Three scenes; the tasks die after `kept` of them."""
    prepare(dataset, tmp_path / "whole", sync_runtime, GeneratedSource(dataset, 100))
    dying = replace(sync_runtime, on_progress=kill_after(40 * kept))
    with pytest.raises(KeyboardInterrupt):
        prepare(dataset, dataset.work, dying, GeneratedSource(dataset, 100))
    assert len(list((dataset.work / "records/units").iterdir())) == kept
    source = GeneratedSource(dataset, 100)
    prepare(dataset, dataset.work, sync_runtime, source)
    assert source.reads == 0, "drafts were finished"
    assert digest(dataset.work) == digest(tmp_path / "whole")


def kill_after(samples: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done >= samples:
            raise KeyboardInterrupt

    return on_progress


class Counted(GeneratedSource):
    """Counts the records in memory when a scene is read and when it is checked."""

    def __init__(self, dataset: DatasetSpec, samples: int) -> None:
        super().__init__(dataset, samples)
        self.alive: list[int] = []

    def read(self, keyframe: Keyframe) -> SampleRecord:
        self._count(keyframe.frame)
        return super().read(keyframe)

    def file_check(self) -> FileCheck:
        return lambda record: self._count(record.frame)

    def _count(self, frame: int) -> Sequence[Hole]:
        if frame == KEYFRAMES_PER_SCENE - 1:
            self.alive.append(sum(type(thing) is SampleRecord for thing in gc.get_objects()))
        return ()


@pytest.mark.slow
def test_memory_holds_one_scene(dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    source, before = Counted(dataset, 120), sum(type(thing) is SampleRecord for thing in gc.get_objects())
    prepare(dataset, dataset.work, sync_runtime, source)
    assert len(source.alive) == 6
    assert max(source.alive[:3]) <= before + 1, "the driver writes each draft before it reads the next"
    assert max(source.alive[3:]) <= before + KEYFRAMES_PER_SCENE
