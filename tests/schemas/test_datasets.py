"""datasets.yaml: what is accepted, and errors that name entry and field."""

from pathlib import Path

import pytest

from schemas.datasets import load_datasets, select_dataset
from schemas.errors import ConfigError

REPOSITORY_YAML = Path(__file__).parents[2] / "datasets.yaml"

TABLE = "names: [road, free], colors: [[0, 0, 0], [1, 1, 1]], free: 1"

ENTRY = """
mine:
  format: nuscenes
  root: raw
  version: v1.0-mini
  image: {resize: [800, 450], crop: [0, 18, 800, 432]}
  splits: {train: {scenes: [scene-0916], every: 5, limit: 8}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "datasets.yaml"
    path.write_text(text)
    return path


def test_repository_file_is_valid():
    datasets = load_datasets(REPOSITORY_YAML)
    own_labels = ["nuscenes-surroundocc", "nuscenes-openoccupancy"]
    assert list(datasets) == ["nuscenes", "nuscenes-mini", *own_labels, "semantickitti", "synthetic", "synthetic-kitti"]
    assert [name for name, entry in datasets.items() if entry.grid.frame == "lidar"] == own_labels
    assert datasets["nuscenes"].image.shape == (432, 800)
    kitti = datasets["semantickitti"]
    assert (kitti.image.shape, kitti.cameras, kitti.projection) == ((370, 1220), ("image_2",), "exact")
    assert kitti.grid.maximum_m == pytest.approx((51.2, 25.6, 4.4))
    assert datasets["nuscenes"].grid.maximum_m == pytest.approx((40.0, 40.0, 5.4))


def test_paths_start_at_the_file(tmp_path):
    dataset = load_datasets(write(tmp_path, ENTRY))["mine"]
    assert dataset.root == tmp_path / "raw"
    assert dataset.work == tmp_path / "work/mine"
    assert len(dataset.cameras) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version:", "verson:", "entry 'mine': unknown field 'verson'"),
        ("  version: v1.0-mini\n", "", "field 'version' is missing"),
        ("[0, 18, 800, 432]", "[0, 19, 800, 432]", "leaves the resized image"),
        ("[0, 18, 800, 432]", "[0, 18, 800, 15]", "the network's image would have (15, 800) rows"),
        ("format: nuscenes", "format: waymo", "field 'format' = 'waymo'"),
        ("root: raw", "root: 'data\\\\raw'", "separated by /"),
        ("root: raw", "root: ~nobody-of-that-name/raw", "names no user"),
        ("format: n", "cameras: [a, A]\n  format: n", "capital letters alone"),
        ("scenes: [scene-0916]", "official: val, scenes: [a]", "field 'splits.train'"),
        ("every: 5", "every: 0", "field 'splits.train.every' = 0"),
        ("root: raw", "root: raw\n  categories: {vehicle.mine: lorry}", "unknown class 'lorry'"),
        ("root: raw", "root: raw\n  point_columns: 2", "field 'point_columns' = 2"),
        ("resize: [800, 450], ", "", "field 'image.resize' is missing"),
        (
            "root: raw",
            f"root: raw\n  classes: {{{TABLE}, driveable: road}}",
            "driveable: 'road' is none of `ground`: none",
        ),
    ],
)
def test_wrong_field_is_named(tmp_path, old, new, message):
    with pytest.raises(ConfigError) as error:
        load_datasets(write(tmp_path, ENTRY.replace(old, new)))
    assert message in str(error.value)
    assert "entry 'mine'" in str(error.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "mine: 3", "mine: {a: b: c}"])
def test_no_mapping(tmp_path, text):
    with pytest.raises(ConfigError, match="datasets.yaml"):
        load_datasets(write(tmp_path, text))


def test_missing_file_says_where_it_looked(tmp_path):
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_datasets(tmp_path / "datasets.yaml")


def test_select(tmp_path):
    datasets = load_datasets(write(tmp_path, ENTRY))
    assert select_dataset(datasets, None).name == "mine"
    with pytest.raises(ConfigError, match="known: mine"):
        select_dataset(datasets, "other")


def test_images_may_keep_their_size(tmp_path):
    dataset = load_datasets(write(tmp_path, ENTRY.replace("resize: [800, 450]", "resize: null")))["mine"]
    assert dataset.image.shape == (432, 800)
    assert dataset.image.resized((1226, 460)) == (1226, 460)
    assert dataset.image.crop_fits((800, 450)) and not dataset.image.crop_fits((800, 449))


def test_own_category_beats_the_table(tmp_path):
    dataset = load_datasets(write(tmp_path, ENTRY.replace("root: raw", "root: raw\n  categories: {a.b: truck}")))[
        "mine"
    ]
    assert dataset.class_of("a.b") == 10
    assert dataset.class_of("vehicle.car") == 4
    with pytest.raises(KeyError):
        dataset.class_of("vehicle.unheard_of")
