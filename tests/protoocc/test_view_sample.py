"""The sheet of a sample: panels, borders, legend, title, files."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from protoocc.model import ProtoOcc
from protoocc.network import ImagePrototypes
from protoocc.prototype_colors import prototype_colors
from protoocc.view import SampleView, render_sample, sample_title, write_png
from protoocc.view.images import camera_panel, prototype_panel, segment_borders, spatial_order
from protoocc.view.page import MARGIN, PAGE_WIDTH
from protoocc.view.paint import make_palette, paint_errors
from protoocc.view.sample import COLUMN_PX, _class_legend, _error_legend
from schemas.classes import OCC3D
from schemas.datasets import NUSCENES_CAMERAS
from schemas.errors import DataError
from schemas.geometry import OCC3D_GRID, VoxelGrid
from tests.protoocc.test_model import make_batch, tiny_model

SHARED = Path(__file__).parents[2] / "../shared/data"
PALETTE = make_palette(OCC3D)
GRID = VoxelGrid(minimum_m=(-4.0, -4.0, -1.0), voxel_size_m=0.4, shape=(20, 20, 4))
CAR, ROAD, BUS = (OCC3D.index(name) for name in ("car", "driveable_surface", "bus"))


@pytest.fixture
def view() -> SampleView:
    images = np.stack([np.full((27, 50, 3), 40 * v, dtype=np.uint8) for v in range(6)])
    semantics = np.full(GRID.shape, OCC3D.free, dtype=np.uint8)
    semantics[:, :, 0] = ROAD
    semantics[12:15, 5:8, 1:3] = CAR
    return SampleView(
        images=images,
        cameras=NUSCENES_CAMERAS,
        classes=OCC3D,
        segment_id=np.zeros((6, 27, 50), dtype=np.uint16),
        semantics=semantics,
        mask_camera=np.ones(GRID.shape, dtype=bool),
        prediction=None,
        grid=GRID,
        title=sample_title(dataset="synthetic", scene="synth-0000", frame=3, token="abc", scores={"mIoU": 0.25}),
    )


def test_spatial_order() -> None:
    # array order: front, front right, front left, back, back left, back right
    assert spatial_order(NUSCENES_CAMERAS) == [2, 0, 1, 4, 3, 5]
    assert spatial_order(("ROOF", "CAM_BACK", "CAM_FRONT")) == [2, 1, 0]


def test_borders_are_where_ids_change() -> None:
    ids = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]], dtype=np.uint16)
    expected = [[False, True, False], [True, True, True], [False, False, False]]
    assert segment_borders(ids).tolist() == expected
    assert not segment_borders(np.zeros((4, 4), dtype=np.int64)).any()


def test_camera_panel_draws_borders_one_pixel_wide() -> None:
    image = np.full((20, 40, 3), 100, dtype=np.uint8)
    ids = np.zeros((20, 40), dtype=np.uint16)
    ids[:, 20:] = 1
    panel = camera_panel(image, ids, 80)
    assert panel.shape == (40, 80, 3)
    changed = np.flatnonzero((panel != 100).any(axis=(0, 2)))
    assert changed.tolist() == [39]  # id 0 covers columns 0..39 of the panel
    assert (camera_panel(image, None, 80) == 100).all()
    assert (image == 100).all()


def test_cameras_stand_in_spatial_order(view: SampleView) -> None:
    sheet = render_sample(view)
    row = sheet[200, [MARGIN + COLUMN_PX // 2 + i * (COLUMN_PX + 20) for i in range(3)]]
    assert row[:, 0].tolist() == [80, 0, 40]  # front left is image 2, front 0, front right 1; image v has value 40 v


@pytest.mark.slow
def test_sheet_without_prediction_is_shorter(view: SampleView) -> None:
    alone = render_sample(view)
    compared = render_sample(dataclasses.replace(view, prediction=view.semantics))
    assert alone.shape[1] == compared.shape[1] == PAGE_WIDTH
    assert alone.shape[0] < compared.shape[0]
    for sheet in (alone, compared):
        assert (sheet[:, :MARGIN] == 255).all() and (sheet[:, -MARGIN:] == 255).all()


def test_legend_names_what_occurs(view: SampleView) -> None:
    entries = {entry.name: entry.color for entry in _class_legend(view, PALETTE)}
    assert list(entries)[:2] == ["car", "driveable surface"]
    assert entries["car"] == tuple(OCC3D.palette[CAR].tolist())
    assert "bus" not in entries and not any("unknown" in name for name in entries)
    semantics = view.semantics.copy()
    semantics[0, 0, 0] = 255
    prediction = np.full(GRID.shape, BUS, dtype=np.uint8)
    changed = dataclasses.replace(view, semantics=semantics, prediction=prediction)
    names = [entry.name for entry in _class_legend(changed, PALETTE)]
    assert names[:4] == ["bus", "car", "driveable surface", "unknown class (ignored)"]


def test_legend_colours_stand_on_the_sheet(view: SampleView) -> None:
    legend = render_sample(view)[-MARGIN - 30 : -MARGIN + 5].reshape(-1, 3)
    for label in (CAR, ROAD):
        assert np.count_nonzero((legend == OCC3D.palette[label]).all(axis=1)) > 100


def test_error_shares_by_hand(view: SampleView) -> None:
    prediction = view.semantics.copy()
    prediction[:2, :, 0] = OCC3D.free  # 2*20 = 40 road voxels missed of 400 road + 3*3*2 = 18 car = 418
    errors = paint_errors(view.semantics, prediction, view.mask_camera, OCC3D)
    names = [entry.name for entry in _error_legend(errors, PALETTE)]
    # 378 / 418 = 90.4 %, 40 / 418 = 9.6 %
    assert names == ["correct 90.4 %", "wrong class 0.0 %", "missed 9.6 %", "invented 0.0 %"]


def test_title() -> None:
    lines = sample_title(dataset="d", scene="scene-0001", frame=7, token="t", scores={"mIoU": 0.1234, "IoU": 0.5})
    assert lines[0] == "scene-0001  ·  frame 7"
    assert lines[1] == "dataset d  ·  sample t"
    assert "mIoU 12.3 %" in lines[2] and "IoU 50.0 %" in lines[2] and "camera mask" in lines[2]
    assert len(sample_title(dataset="d", scene="s", frame=0, token="t")) == 2


def test_wrong_shapes_are_named(view: SampleView) -> None:
    with pytest.raises(DataError, match=r"'semantics' has shape \(20, 20, 4\), the grid .* \(200, 200, 16\)"):
        dataclasses.replace(view, grid=OCC3D_GRID)
    with pytest.raises(DataError, match="6 images, but 1 camera names"):
        dataclasses.replace(view, cameras=("CAM_FRONT",))


def test_same_view_gives_same_bytes(view: SampleView, tmp_path: Path) -> None:
    digests = []
    for name in ("a.png", "b.png"):
        write_png(tmp_path / "pictures" / name, render_sample(view))
        digests.append(hashlib.sha256((tmp_path / "pictures" / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.png", "b.png"]


def test_png_holds_rgb(tmp_path: Path) -> None:
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    image[0, 0] = (255, 0, 10)
    write_png(tmp_path / "x.png", image)
    assert cv2.imread(str(tmp_path / "x.png"))[0, 0].tolist() == [10, 0, 255]  # OpenCV reads BGR


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match="the disk is full"):
        write_png(tmp_path / "x.png", np.zeros((2, 2, 3), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_real_occ3d_labels() -> None:
    files = sorted((SHARED / "occ3d/gts").glob("*/*/labels.npz"))
    if not files:
        pytest.skip("no Occ3D labels in the shared data folder beside the repository")
    with np.load(files[0], allow_pickle=False) as labels:
        semantics, mask = labels["semantics"], labels["mask_camera"].astype(bool)
    sheet = render_sample(
        SampleView(
            images=np.zeros((6, 27, 50, 3), dtype=np.uint8),
            cameras=NUSCENES_CAMERAS,
            classes=OCC3D,
            segment_id=None,
            semantics=semantics,
            mask_camera=mask,
            prediction=None,
            grid=OCC3D_GRID,
            title=("scene-1077",),
        )
    )
    top = sheet[-MARGIN - 22 - 20 - COLUMN_PX : -MARGIN - 22 - 20, MARGIN : MARGIN + COLUMN_PX]
    shown = np.count_nonzero((top == OCC3D.palette[ROAD]).all(axis=2)) / 9  # 3 x 3 pixels per voxel
    columns = int(((semantics == ROAD) & mask).any(axis=2).sum())
    # plants hide some road and shadows or edges change the colour of some, so between a third and all of it is seen
    assert columns / 3 < shown <= columns


def test_prototypes_make_two_more_rows_of_panels(view: SampleView) -> None:
    """Each row of cameras gets a row below it, as high as the cameras with caption and gap."""
    colors = np.zeros((6, 4, 7, 3), np.uint8)
    plain, drawn = render_sample(view), render_sample(dataclasses.replace(view, prototypes=colors))
    panel_px = camera_panel(view.images[0], None, COLUMN_PX).shape[0]
    assert drawn.shape[0] - plain.shape[0] == 2 * (panel_px + 28 + 20)


def test_prototype_colours_tint_the_grey_image() -> None:
    """0.6 * (200, 0, 100) + 0.4 * grey 50 = (140, 20, 80)."""
    image, colors = np.full((10, 20, 3), 50, np.uint8), np.full((1, 2, 3), (200, 0, 100), np.uint8)
    assert prototype_panel(image, colors, 20)[3, 4].tolist() == [140, 20, 80]


def test_cells_that_look_alike_have_one_colour() -> None:
    """Three directions of features, whatever their length, and one prototype for each: a colour for each."""
    columns = torch.eye(4)[[0, 0, 1, 1, 2]].T * torch.tensor([1.0, 3.0, 1.0, 0.5, 2.0])
    features = columns[None, :, None, :].expand(2, -1, 3, -1)
    colors = prototype_colors(
        ImagePrototypes(features=features, prototypes=5 * torch.eye(4)[None, :3].expand(2, -1, -1))
    )
    assert colors.shape == (2, 3, 5, 3)
    assert (colors == colors[0, 0]).all()
    first, same, other, same_as_other, third = colors[0, 0].astype(int)
    assert (first == same).all() and (other == same_as_other).all()
    for one, two in ((first, other), (first, third), (other, third)):
        assert np.abs(one - two).sum() > 100


def test_padding_of_images_is_not_drawn() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        found = ProtoOcc(tiny_model()).eval().image_prototypes(make_batch())
    assert found is not None
    assert prototype_colors(found).shape == (3, 5, 9, 3)
