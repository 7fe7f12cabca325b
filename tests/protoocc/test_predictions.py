"""Predictions as files: right contents, the same bytes after a kill, and no mixing of different ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.data.decode import Views
from protoocc.hosts import build_network
from protoocc.inference import predict
from protoocc.network import Network
from protoocc.predictions import PredictionOptions, seen_from, write_predictions
from protoocc.predictions_source import Moment, ShardSource, Shot, to_batch
from protoocc.submission import benchmark_numbers
from schemas.classes import OCC3D, ClassTable
from schemas.errors import ConfigError, DataError
from schemas.runs import PREDICTIONS
from schemas.settings import override
from tests.protoocc.conftest import KITTI

ALL = PredictionOptions(kinds=("occ3d", "npz", "pictures"))


def built(config: TrainConfig) -> Network:
    torch.manual_seed(0)
    network = build_network(config.model).eval()
    with torch.no_grad():  # a network that says more than "free"
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> TrainConfig:
    make: Callable[[], TrainConfig] = request.getfixturevalue("make_tiny_config")
    return make()


@pytest.fixture(scope="module")
def network(config: TrainConfig) -> Network:
    return built(config)


def source_of(shards: Path, config: TrainConfig, split: str = "train", *, single_frame: bool = False) -> ShardSource:
    return ShardSource(open_shards(shards, split), config.model, single_frame=single_frame)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_hold_what_the_network_says(shards: Path, network: Network, config: TrainConfig, tmp_path: Path) -> None:
    """The tables agree, so all numbers are those of the network; the pictures show the labels beside."""
    source = source_of(shards, config)
    source.keep([1, 3])
    summary = write_predictions(network, config, source, tmp_path / "out", ALL)
    assert (summary.samples, summary.computed) == (2, 2)
    for keyframe, volume in list(predict(network, open_shards(shards, "train")))[1:4:2]:
        with np.load(tmp_path / "out/occ3d" / f"{keyframe.token}.npz") as file:
            assert file.files == ["arr_0"] and file["arr_0"].dtype == np.uint8
            np.testing.assert_array_equal(file["arr_0"], volume)
    plan = json.loads((tmp_path / "out" / PREDICTIONS).read_text())
    assert plan["samples"]["token-3"] == "scene-train-00001-0000"
    with np.load(tmp_path / "out/npz/scene-train-00001-0000.npz") as file:
        assert sorted(file.files) == ["seen", "semantics"]
        assert file["semantics"].shape == file["seen"].shape == (8, 8, 4)
        assert len(np.unique(file["semantics"])) > 1
    pictures = sorted((tmp_path / "out/pictures").iterdir())
    assert len(pictures) == 2 and pictures[0].read_bytes().startswith(b"\x89PNG")


class StoppedError(Exception):
    pass


def test_killed_and_run_again_gives_the_same_bytes(
    shards: Path, network: Network, config: TrainConfig, tmp_path: Path
) -> None:
    """Batches of 2 out of 5 samples; stopped after the first, then with one file of the second batch there."""
    options = PredictionOptions(kinds=("occ3d", "npz"), batch=2)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    write_predictions(network, config, source_of(shards, config), whole, options)

    def stop(done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        write_predictions(network, config, source_of(shards, config), torn, options, stop)
    assert 0 < len(contents(torn)) < len(contents(whole))
    (torn / "npz" / "scene-train-00000-0001.npz").unlink()
    (torn / "occ3d" / "token-3.npz.partial").write_bytes(b"half")
    summary = write_predictions(network, config, source_of(shards, config), torn, options)
    assert summary.computed == 4  # the one that lost a file, and three that were never there
    assert contents(torn) == contents(whole)
    assert write_predictions(network, config, source_of(shards, config), torn, options).computed == 0


def test_other_predictions_are_refused(shards: Path, network: Network, config: TrainConfig, tmp_path: Path) -> None:
    options, out = PredictionOptions(kinds=("npz",)), tmp_path / "out"
    source = source_of(shards, config, "val")
    write_predictions(network, config, source, out, options)
    with pytest.raises(ConfigError, match=r"other predictions:\n.*options.batch: was 1, now 2"):
        write_predictions(network, config, source, out, PredictionOptions(kinds=("npz",), batch=2))
    other = built(config)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(ConfigError, match="weights: was"):
        write_predictions(other, config, source, out, options)
    source.keep([1])
    with pytest.raises(ConfigError, match="samples: was 2, now 1"):
        write_predictions(network, config, source, out, options)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'notes.txt'.*Choose another folder with --predictions"):
        write_predictions(network, config, source, foreign, options)


def test_occ3d_numbers_go_by_names() -> None:
    names = ("free", "car", "vegetation")
    table = ClassTable(names=names, colors=((0, 0, 0),) * 3, free=0)
    np.testing.assert_array_equal(benchmark_numbers("occ3d", table), [17, 4, 16])
    np.testing.assert_array_equal(benchmark_numbers("occ3d", OCC3D), np.arange(18))
    with pytest.raises(ConfigError, match=r"no class 'thing_0' of the network.*--write npz"):
        benchmark_numbers("occ3d", KITTI)


def test_names_that_are_no_files(shards: Path, network: Network, config: TrainConfig, tmp_path: Path) -> None:
    class Renamed(ShardSource):
        @property
        def moments(self) -> list[Moment]:
            return [moment._replace(token="../token") for moment in super().moments]

    source = Renamed(open_shards(shards, "val"), config.model, single_frame=False)
    with pytest.raises(DataError, match=r"token '../token' is no file name"):
        write_predictions(network, config, source, tmp_path / "out", ALL)
    assert not (tmp_path / "out").exists()


def test_single_frame_replaces_earlier_keyframes(shards: Path, config: TrainConfig, tmp_path: Path) -> None:
    """A network of 2 frames: by itself it reads the keyframe before, alone it sees the present one twice, unmoved."""
    two = override(config, ["model.frames=2", "model.frame_interval=1"])
    network, answers = built(two), {}
    for single in (False, True):
        source = source_of(shards, two, single_frame=single)
        shot = source.read(2)
        assert (shot.past is None) == single
        batch = to_batch(source.moments[2:3], [shot], 2)
        assert batch.past_from_ego is not None and batch.past_images is not None
        moved = batch.past_from_ego[0, 0, 0, 3].item()
        assert moved == pytest.approx(0.0 if single else 2.0)
        assert torch.equal(batch.past_images[:, 0], batch.images) == single
        answers[single] = network.predict(batch)
    first, names = source_of(shards, two).read(0), [Moment("a", "a", "a", 0)]
    alone = dataclasses.replace(first, past=None)
    both = [network.predict(to_batch(names, [shot], 2)) for shot in (first, alone)]
    assert torch.equal(*both)  # the first keyframe of a scene has none before it


def test_any_number_of_cameras(shards: Path, network: Network, config: TrainConfig) -> None:
    """One camera of the two is enough."""
    source = source_of(shards, config)
    views = source.read(0).views
    front = Views(
        images=views.images[:1],
        image_from_camera=views.image_from_camera[:1],
        camera_from_ego=views.camera_from_ego[:1],
        global_from_ego=views.global_from_ego,
    )
    volume = network.predict(to_batch(source.moments[:1], [Shot(front)], 1))
    assert volume.shape == (1, 8, 8, 4)


def test_seen_voxels_lie_before_what_stops_the_rays(shards: Path, config: TrainConfig) -> None:
    """The front camera looks along x from (0, 0, 1): a wall at x 1..2 hides all behind it, and its own back side."""
    views = source_of(shards, config).read(0).views
    occupied = np.zeros((8, 8, 4), bool)
    occupied[5] = True
    seen = seen_from(views, occupied, config.model.grid)
    assert seen[5].any() and not seen[6:].any()
    assert seen[:3].any()  # the camera at the back
