"""A tiny generated world through the real stages, once for all test processes; the real data where it is present."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import Occ3dConfig, make_occupancy
from pipelines.pack import PackConfig, pack
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.synth import SynthConfig, generate_world
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.geometry import VoxelGrid
from schemas.images import ImageSpec

SMALL_GRID = VoxelGrid(minimum_m=(-12.0, -12.0, -1.0), voxel_size_m=0.4, shape=(60, 60, 16))
"""24 m x 24 m around the vehicle, where labels of few voxels prove the same."""
SHARED_DATA = Path(__file__).parents[1] / "../shared/data"
"""Real data in the shared data folder beside the repository; non-commercial licences keep it out of it."""


def pytest_configure(config: pytest.Config) -> None:
    """Test processes share the cores: each computes in one thread, and threads that wait sleep.

    Two threads in each of two processes on two cores wait for each other, spinning. OpenMP reads this when the test
    processes, which inherit it, load torch. With `-n 0` nothing is decided here.
    """
    if config.getoption("numprocesses", default=None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def sync_runtime() -> Runtime:
    """Runs stages in this thread."""
    return Runtime(scheduler=Scheduler(kind="sync"))


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """One of the test processes at a time: the first makes what lies in a folder, the others find it finished."""
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes of a run: what is made there is made once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def world(shared_folder: Path, sync_runtime: Runtime) -> Path:
    """Root of a generated world: 2 scenes of 2 keyframes, images of 400x225. Read-only: copy before you damage it."""
    config = SynthConfig(scenes=2, keyframes=2, seed=0, image_width=400, sweeps_per_keyframe=2, depth=True)
    with one_process(shared_folder):
        return generate_world(shared_folder / "world", config, sync_runtime).root


@pytest.fixture(scope="session")
def world_dataset(world: Path, shared_folder: Path) -> DatasetSpec:
    """Entry for `world`: one scene to train on, one to validate; network images of 200x104."""
    return DatasetSpec(
        name="tiny",
        format="nuscenes",
        root=world,
        version="v1.0-synth",
        work=shared_folder / "tiny",
        image=ImageSpec(resize=(200, 112), crop=(0, 8, 200, 104)),
        splits={"train": SplitSpec(scenes=("synth-0000",)), "val": SplitSpec(scenes=("synth-0001",))},
    )


@pytest.fixture(scope="session")
def prepared(world_dataset: DatasetSpec, sync_runtime: Runtime) -> Path:
    """Work folder of `world_dataset` with finished `records` and `geometry.zarr`."""
    with one_process(world_dataset.root.parent):
        prepare(world_dataset, world_dataset.work, sync_runtime)
    return world_dataset.work


@pytest.fixture(scope="session")
def real_nuscenes() -> Path:
    """Root of the real keyframes, version v1.0-mini: scene-0916 (41) and scene-0061 (1)."""
    root = (SHARED_DATA / "nuscenes").resolve()
    if not root.is_dir():
        pytest.skip("no real nuScenes keyframes in the shared data folder beside the repository")
    return root


@pytest.fixture(scope="session")
def real_occ3d() -> Path:
    """Folder that holds one real Occ3D label file below `gts`."""
    root = (SHARED_DATA / "occ3d").resolve()
    if not root.is_dir():
        pytest.skip("no real Occ3D labels in the shared data folder beside the repository")
    return root


@pytest.fixture(scope="session")
def stored(world_dataset: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> Path:
    """Work folder with `occupancy.zarr` (the world's own labels) and `masks-seeds.zarr` as well."""
    with one_process(world_dataset.root.parent):
        make_occupancy(world_dataset, prepared, Occ3dConfig(), sync_runtime)
        make_masks(world_dataset, prepared, SeedsConfig(), sync_runtime)
    return prepared


@pytest.fixture(scope="session")
def packed(world_dataset: DatasetSpec, stored: Path, sync_runtime: Runtime) -> Path:
    """`shards` folder of the tiny world: splits train and val of two samples each."""
    with one_process(world_dataset.root.parent):
        return pack(world_dataset, stored, PackConfig(), sync_runtime).folder


@pytest.fixture(scope="session")
def real_kitti() -> Path:
    """Root of real SemanticKITTI frames: 000000 and 000005 of sequence 00, 000000 of 08; poses of both sequences."""
    root = (SHARED_DATA / "kitti").resolve()
    if not root.is_dir():
        pytest.skip("no real SemanticKITTI frames in the shared data folder beside the repository")
    return root
