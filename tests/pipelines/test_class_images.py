"""Classes of camera pixels: small ONNX networks with known answers, points that are painted by hand, a whole world."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipelines.class_images import make_class_images
from pipelines.class_model import ClassModelConfig, class_segmenter
from pipelines.manifests import planned_command
from pipelines.occupancy import ImageLabels, LidarConfig, make_occupancy
from pipelines.occupancy.compare_folder import compare_with_folder
from pipelines.occupancy.painting import paint_points
from pipelines.points import UNLABELLED
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.synth import SynthConfig, generate_world
from protoocc.export_pixels import export_pixel_classes
from protoocc.presets import DEMO_FEATURES
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import CheckpointError, ConfigError, DataError, ProtoOccError
from schemas.geometry import invert_rigid, transform_points
from schemas.images import ImageSpec
from schemas.records import SampleRecord, read_index, read_records
from schemas.settings import override

ROAD, SIDEWALK, MANMADE, VEGETATION, IGNORED = 11, 13, 15, 16, 255
NAMES = ("manmade", "-", "driveable_surface")
SIZE = (8, 4)


def write_network(path: Path, *, element: int = TensorProto.UINT8, names: tuple[str, ...] = NAMES, size=SIZE) -> Path:
    """Scores of three classes: the strengths of red, green and blue."""
    shape = [1, 3, size[1], size[0]]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["scores"], to=TensorProto.FLOAT)],
        "colours",
        [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if names:
        helper.set_model_props(model, {"classes": json.dumps(names)})
    onnx.save(model, str(path))
    return path


def test_the_strongest_colour_is_the_class(tmp_path: Path) -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :4, 2] = image[:, 4:8, 1] = image[:, 8:, 0] = 200  # BGR: red, green, blue
    segment = class_segmenter(ClassModelConfig(model=write_network(tmp_path / "a.onnx")), OCC3D)
    assert segment(image).tolist() == [[MANMADE] * 2 + [IGNORED] * 2 + [ROAD] * 4] * 4
    own_list = ClassModelConfig(model=tmp_path / "a.onnx", classes=("sidewalk", "vegetation", "-"))
    assert class_segmenter(own_list, OCC3D)(image)[0].tolist() == [SIDEWALK] * 2 + [VEGETATION] * 2 + [IGNORED] * 4


def test_real_networks_get_normalised_colours(tmp_path: Path) -> None:
    """Grey of 110: red is 110 - 123.675, blue 110 - 103.53, so blue wins; with other means red does."""
    path = write_network(tmp_path / "a.onnx", element=TensorProto.FLOAT)
    grey = np.full((4, 8, 3), 110, np.uint8)
    assert set(class_segmenter(ClassModelConfig(model=path), OCC3D)(grey).ravel()) == {ROAD}
    config = ClassModelConfig(model=path, mean=(0.0, 10.0, 20.0), deviation=(1.0, 1.0, 1.0))
    assert set(class_segmenter(config, OCC3D)(grey).ravel()) == {MANMADE}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": ()}, ConfigError, "does not name its classes; give --classes"),
        ({"names": ("manmade", "sky")}, ConfigError, "'sky' is no class of the dataset; expected others, barrier"),
        ({"names": ("manmade",)}, CheckpointError, "tells class 2; its list has 1 names"),
        ({"element": TensorProto.INT64}, CheckpointError, r"takes image tensor\(int64\).*expected one image"),
        ({"size": ("w", "h")}, ConfigError, "takes images of any size; give --size"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, change: dict, error: type[ProtoOccError], message: str) -> None:
    path = write_network(tmp_path / "a.onnx", **change)
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0] = 9
    with pytest.raises(error, match=message):
        class_segmenter(ClassModelConfig(model=path), OCC3D)(image)


@pytest.mark.parametrize(("name", "message"), [("a.pt", "TorchScript and pickled networks run code"), ("b.onnx", "no")])
def test_files_that_are_no_networks(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04ceval\n")
    with pytest.raises(CheckpointError, match=message):
        class_segmenter(ClassModelConfig(model=tmp_path / name), OCC3D)
    with pytest.raises(CheckpointError, match="cannot be read"):
        class_segmenter(ClassModelConfig(model=tmp_path / "nowhere.onnx"), OCC3D)


@pytest.fixture
def record(prepared: Path) -> SampleRecord:
    return read_records(prepared / "records", read_index(prepared / "records"))[0]


def points_before(record: SampleRecord, channel: str, points_camera: np.ndarray) -> np.ndarray:
    """Points of a camera's frame in the LiDAR's."""
    camera = record.cameras[channel]
    global_from_camera = camera.global_from_ego.matrix @ camera.ego_from_camera.matrix
    return transform_points(invert_rigid(record.keyframe_sweep.global_from_lidar) @ global_from_camera, points_camera)


def test_points_take_the_class_of_their_pixel(record: SampleRecord) -> None:
    """Left of the axis is wall, right of it trees; a pixel beside the border, a point behind another and one behind
    the camera get nothing, nor does a class that images may not tell."""
    image = np.full((90, 160), MANMADE, np.uint8)
    image[:, 80:] = VEGETATION
    image[70:, :60] = 4
    shown = np.array([[-3, 0, 10], [3, 0, 10], [0, 0, 10], [3.9, 0, 13], [0, 0, -10], [-5, 3, 10]], float)
    labels = paint_points(
        points_before(record, "CAM_FRONT", shown), record, {"CAM_FRONT": image}, OCC3D.labels_of(OCC3D.stuff)
    )
    assert labels.tolist() == [MANMADE, VEGETATION, UNLABELLED, UNLABELLED, UNLABELLED, UNLABELLED]


def test_cameras_that_disagree_tell_nothing(record: SampleRecord) -> None:
    """The same camera twice, under two names, with two answers."""
    twice = record.model_copy(update={"cameras": {**record.cameras, "CAM_OTHER": record.cameras["CAM_FRONT"]}})
    images = {"CAM_FRONT": np.full((9, 16), ROAD, np.uint8), "CAM_OTHER": np.full((9, 16), ROAD, np.uint8)}
    point = points_before(record, "CAM_FRONT", np.array([[0.0, 0.0, 9.0]]))
    assert paint_points(point, twice, images, OCC3D.labels_of(OCC3D.stuff)).tolist() == [ROAD]
    images["CAM_OTHER"][:] = MANMADE
    assert paint_points(point, twice, images, OCC3D.labels_of(OCC3D.stuff)).tolist() == [UNLABELLED]


def test_the_stage_writes_an_image_for_each_camera(
    world_dataset: DatasetSpec, prepared: Path, sync_runtime: Runtime, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(prepared / "records", work / "records")
    dataset = world_dataset.model_copy(update={"work": work})
    own_list = ("sidewalk", "vegetation", "-")
    config = ClassModelConfig(model=write_network(tmp_path / "a.onnx", size=(16, 9)), classes=own_list)
    summary = make_class_images(dataset, work, config, sync_runtime)
    words = shlex.split(planned_command(summary.folder))
    given = {option: words[i + 1] for i, option in enumerate(words) if option.startswith("--")}
    again = override(ClassModelConfig(model=Path(given["--model"])), [given["--set"]])
    assert again == config, "the command that a message names makes the same images"
    records = read_records(work / "records", read_index(work / "records"))
    files = sorted(path.relative_to(summary.folder) for path in summary.folder.glob("*/*/*.png"))
    assert files == sorted(Path(r.scene, r.token, f"{name}.png") for r in records for name in dataset.cameras)
    assert cv2.imread(str(summary.folder / files[0]), cv2.IMREAD_UNCHANGED).shape == (9, 16)
    (summary.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="class-images"):
        make_occupancy(dataset, work, LidarConfig(image_labels=ImageLabels(folder="class-images")), sync_runtime)


@pytest.mark.slow
def test_a_network_names_an_unseen_world(tmp_path: Path) -> None:
    """The demo's image features, trained on worlds of other seeds, in place of point labels."""
    runtime = Runtime(scheduler=Scheduler("sync"))
    root = tmp_path / "world"
    generate_world(root, SynthConfig(scenes=1, keyframes=6, seed=3, image_width=288), runtime)
    shutil.rmtree(root / "lidarseg")
    (root / "v1.0-synth" / "lidarseg.json").unlink()
    dataset = DatasetSpec(
        name="unseen",
        format="nuscenes",
        root=root,
        version="v1.0-synth",
        work=tmp_path / "work",
        image=ImageSpec(resize=(288, 162), crop=(0, 8, 288, 154)),
        splits={"train": SplitSpec(scenes=("synth-0000",))},
    )
    prepare(dataset, dataset.work, runtime)
    without = make_occupancy(dataset, dataset.work, LidarConfig(), runtime)
    assert without.counts["voxels_ignored"] > 0.4 * without.counts["voxels_occupied"]
    model = tmp_path / "classes.onnx"
    assert export_pixel_classes(Path(DEMO_FEATURES.file), dataset.image, model) < 1e-3
    make_class_images(dataset, dataset.work, ClassModelConfig(model=model), runtime)
    config = LidarConfig(image_labels=ImageLabels(folder="class-images"))
    summary = make_occupancy(dataset, dataset.work, config, replace(runtime, overwrite=True))
    assert summary.counts["voxels_ignored"] < 0.1 * summary.counts["voxels_occupied"]
    assert summary.counts["voxels_images"] > 0
    comparison = compare_with_folder(dataset, dataset.work, root, scheduler=runtime.scheduler)
    accuracy = comparison.figures["semantic_accuracy"]
    assert accuracy is not None and accuracy >= 0.90
