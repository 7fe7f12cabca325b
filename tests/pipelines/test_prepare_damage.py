"""Damaged input: one message that names file, sample and remedy; nothing half-written; drop counts the sample."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.prepare import prepare
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError, ProtoOccError, StageError
from schemas.images import ImageSpec
from schemas.records import SampleRecord, read_index, read_records
from tests.pipelines.world_edits import edit_table, link_tree, replace_file


@pytest.fixture
def copy(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """The tiny world with files that may be replaced."""
    root = link_tree(world_dataset.root, tmp_path / "copy")
    return world_dataset.model_copy(update={"root": root, "work": tmp_path / "work"})


@pytest.fixture
def victim(prepared: Path) -> SampleRecord:
    """Record of the first keyframe, whose files are damaged."""
    return read_records(prepared / "records", read_index(prepared / "records"))[0]


def missing_image(root: Path, victim: SampleRecord) -> str:
    (root / victim.cameras["CAM_BACK"].path).unlink()
    return rf"{victim.cameras['CAM_BACK'].path} is missing"


def truncated_image(root: Path, victim: SampleRecord) -> str:
    path = root / victim.cameras["CAM_BACK"].path
    replace_file(path, path.read_bytes()[:-200])
    return rf"{victim.cameras['CAM_BACK'].path} \(\d+ bytes\) is truncated"


def truncated_png(root: Path, victim: SampleRecord) -> str:
    """A PNG under the name of the JPEG: what counts is what the file holds."""
    path = root / victim.cameras["CAM_BACK"].path
    data = cv2.imencode(".png", np.zeros((225, 400, 3), np.uint8))[1].tobytes()
    replace_file(path, data[:-7])
    return rf"{victim.cameras['CAM_BACK'].path} \(\d+ bytes\) is truncated: no PNG end marker"


def empty_image(root: Path, victim: SampleRecord) -> str:
    replace_file(root / victim.cameras["CAM_FRONT"].path, b"")
    return r"\(0 bytes\) is no readable image"


def resized_image(root: Path, victim: SampleRecord) -> str:
    data = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    replace_file(root / victim.cameras["CAM_FRONT"].path, data)
    return r"is 40x30 pixels, sample_data.json row '.*' says 400x225"


def missing_lidar(root: Path, victim: SampleRecord) -> str:
    (root / victim.lidar.path).unlink()
    return rf"{victim.lidar.path} is missing"


def cut_lidar(root: Path, victim: SampleRecord) -> str:
    path = root / victim.lidar.path
    replace_file(path, path.read_bytes()[:-3])
    return r"bytes, expected a multiple of 20 above 0"


def empty_lidar(root: Path, victim: SampleRecord) -> str:
    replace_file(root / victim.lidar.path, b"")
    return r"has 0 bytes, expected a multiple of 20"


def short_labels(root: Path, victim: SampleRecord) -> str:
    assert victim.lidar.labels_path is not None
    path = root / victim.lidar.labels_path
    replace_file(path, path.read_bytes()[:-1])
    return r"has \d+ labels, .* has \d+ points"


def missing_channel(root: Path, victim: SampleRecord) -> str:
    token = victim.cameras["CAM_BACK"].token
    edit_table(
        root / "v1.0-synth/sample_data.json",
        lambda rows: [row.update(is_key_frame=False) for row in rows if row["token"] == token],
    )
    return r"has no keyframe of CAM_BACK for this sample"


def dangling_pose(root: Path, victim: SampleRecord) -> str:
    token = victim.lidar.token
    edit_table(
        root / "v1.0-synth/sample_data.json",
        lambda rows: [row.update(ego_pose_token="nowhere") for row in rows if row["token"] == token],
    )
    return rf"sample_data.json: row '{token}' has ego_pose_token 'nowhere', which is not in ego_pose.json"


def zero_quaternion(root: Path, victim: SampleRecord) -> str:
    token = victim.boxes[0].token
    edit_table(
        root / "v1.0-synth/sample_annotation.json",
        lambda rows: [row.update(rotation=[0, 0, 0, 0]) for row in rows if row["token"] == token],
    )
    return rf"sample_annotation.json: row '{token}' holds a bad rotation_wxyz = .* length 0 instead of 1"


def text_for_number(root: Path, victim: SampleRecord) -> str:
    token = victim.boxes[0].token
    edit_table(
        root / "v1.0-synth/sample_annotation.json",
        lambda rows: [row.update(num_lidar_pts="many") for row in rows if row["token"] == token],
    )
    return r"holds a bad num_lidar_pts = 'many'"


def missing_field(root: Path, victim: SampleRecord) -> str:
    token = victim.boxes[0].token
    edit_table(
        root / "v1.0-synth/sample_annotation.json",
        lambda rows: [row.pop("num_lidar_pts") for row in rows if row["token"] == token],
    )
    return r"lacks the field 'num_lidar_pts'"


BAD_SAMPLES = [
    missing_image,
    truncated_image,
    truncated_png,
    empty_image,
    resized_image,
    missing_lidar,
    cut_lidar,
    empty_lidar,
    missing_channel,
    dangling_pose,
    zero_quaternion,
    text_for_number,
    missing_field,
]


@pytest.mark.parametrize("damage", BAD_SAMPLES)
def test_bad_sample_fails_or_is_dropped(
    damage: Callable[[Path, SampleRecord], str], copy: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime
) -> None:
    message = damage(copy.root, victim)
    with pytest.raises(StageError, match=message) as caught:
        prepare(copy, copy.work, sync_runtime)
    assert victim.token in str(caught.value)
    assert "1 of 2 units failed" in str(caught.value)
    assert not (copy.work / "records/manifest.json").exists()
    assert not (copy.work / "geometry.zarr").exists()

    summary = prepare(copy, copy.work, replace(sync_runtime, on_error="drop", overwrite=True))
    assert summary.done == 3
    assert list(summary.dropped) == [victim.token]
    kept = read_records(copy.work / "records", read_index(copy.work / "records"))
    assert victim.token not in [record.token for record in kept]
    assert kept[0].previous is None, "a dropped neighbour is no neighbour"


def test_repaired_file_continues(copy: DatasetSpec, victim: SampleRecord, sync_runtime: Runtime, world: Path) -> None:
    """The good scene is kept, the repaired one is done, and the bytes are those of a clean run."""
    missing_image(copy.root, victim)
    with pytest.raises(StageError):
        prepare(copy, copy.work, sync_runtime)
    path = victim.cameras["CAM_BACK"].path
    (copy.root / path).symlink_to(world / path)
    prepare(copy, copy.work, sync_runtime)
    assert len(read_records(copy.work / "records", read_index(copy.work / "records"))) == 4


def test_dropping_everything_fails(copy: DatasetSpec, sync_runtime: Runtime, prepared: Path) -> None:
    for record in read_records(prepared / "records", read_index(prepared / "records")):
        missing_image(copy.root, record)
    with pytest.raises(StageError, match="every sample was dropped; first reason: .*CAM_BACK.* is missing"):
        prepare(copy, copy.work, replace(sync_runtime, on_error="drop"))


def test_unknown_category_names_the_remedy(copy: DatasetSpec, sync_runtime: Runtime) -> None:
    edit_table(
        copy.root / "v1.0-synth/category.json",
        lambda rows: [row.update(name="vehicle.hover") for row in rows if row["name"] == "vehicle.car"],
    )
    message = r"sample_annotation.json: annotation '.*' has category 'vehicle.hover'.*Add `vehicle.hover: CLASS` to"
    with pytest.raises(StageError, match=message):
        prepare(copy, copy.work, sync_runtime)
    known = copy.model_copy(update={"categories": {"vehicle.hover": "car"}})
    summary = prepare(known, copy.work, replace(sync_runtime, overwrite=True))
    assert summary.done == 4


def missing_root(spec: DatasetSpec) -> DatasetSpec:
    return spec.model_copy(update={"root": spec.root / "nowhere"})


def wrong_version(spec: DatasetSpec) -> DatasetSpec:
    return spec.model_copy(update={"version": "v1.0-mini"})


def missing_table(spec: DatasetSpec) -> DatasetSpec:
    (spec.root / "v1.0-synth/ego_pose.json").unlink()
    return spec


def broken_json(spec: DatasetSpec) -> DatasetSpec:
    replace_file(spec.root / "v1.0-synth/instance.json", b'[{"token": "a"')
    return spec


def table_of_numbers(spec: DatasetSpec) -> DatasetSpec:
    replace_file(spec.root / "v1.0-synth/scene.json", b"[1, 2]")
    return spec


def dangling_instance(spec: DatasetSpec) -> DatasetSpec:
    edit_table(spec.root / "v1.0-synth/sample_annotation.json", lambda rows: rows[0].update(instance_token="nowhere"))
    return spec


def cut_map_image(spec: DatasetSpec) -> DatasetSpec:
    for path in (spec.root / "maps").glob("*.png"):
        replace_file(path, path.read_bytes()[:-40])
    return spec


def map_of_text(spec: DatasetSpec) -> DatasetSpec:
    for path in (spec.root / "maps").glob("*.png"):
        replace_file(path, b"no image")
    return spec


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_root, r"root .*nowhere is no folder. Correct `root`"),
        (wrong_version, r"no version 'v1.0-mini' in .*versions found there: v1.0-synth"),
        (missing_table, r"table ego_pose.json is missing"),
        (broken_json, r"instance.json is broken JSON: .*column"),
        (table_of_numbers, r"scene.json: expected a list of rows with a `token`"),
        (dangling_instance, r"row '.*' has instance_token 'nowhere', which is not in instance.json"),
        (cut_map_image, r"maps/.*.png: map mask is missing or no whole image"),
        (map_of_text, r"maps/.*.png: map mask is missing or no whole image"),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "drop"])
def test_bad_tables_stop_before_anything_is_written(
    damage: Callable[[DatasetSpec], DatasetSpec], message: str, on_error: Any, copy: DatasetSpec, sync_runtime: Runtime
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(damage(copy), copy.work, replace(sync_runtime, on_error=on_error))
    assert not copy.work.exists() or list(copy.work.iterdir()) == []


def test_real_truncated_image(real_nuscenes: Path, tmp_path: Path, sync_runtime: Runtime) -> None:
    root = link_tree(real_nuscenes, tmp_path / "copy")
    spec = DatasetSpec(
        name="real",
        format="nuscenes",
        root=root,
        version="v1.0-mini",
        work=tmp_path / "work",
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={"val": SplitSpec(scenes=("scene-0061",))},
    )
    path = next((root / "samples/CAM_FRONT").glob("n015-2018-07-24*"))
    replace_file(path, path.read_bytes()[:70_000])
    with pytest.raises(
        ProtoOccError, match=rf"sample ca9a282c9e77460f8360f564131a8af5: .*{re.escape(path.name)} .* is truncated"
    ):
        prepare(spec, spec.work, sync_runtime)
