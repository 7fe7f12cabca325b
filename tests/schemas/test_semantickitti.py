"""Numbers and packing of SemanticKITTI, against literal values of its public configuration."""

from pathlib import Path

import numpy as np
import pytest

from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID
from schemas.semantickitti import (
    CLASS_OF_RAW,
    INVERSE_MAP,
    LEARNING_MAP,
    NO_ID,
    SPLITS,
    join_label,
    raw_of_class,
    read_bits,
    read_voxel_labels,
    split_label,
    write_bits,
    write_voxel_labels,
)

KITTI = Path(__file__).parents[2] / "../shared/data/kitti/dataset/sequences"


def test_every_raw_id_has_the_class_of_its_name() -> None:
    """34 ids; moving things are the class of their kind."""
    assert len(LEARNING_MAP) == 34
    expected = {0: "empty", 10: "car", 252: "car", 254: "person", 258: "truck", 60: "road", 81: "traffic-sign"}
    assert {raw: SEMANTICKITTI.names[CLASS_OF_RAW[raw]] for raw in expected} == expected
    assert CLASS_OF_RAW[[1, 52, 99]].tolist() == [255, 255, 255]
    assert CLASS_OF_RAW[[2, 12, 260, 65535]].tolist() == [NO_ID] * 4


def test_submissions_come_back_as_the_same_classes() -> None:
    classes = np.array([*range(20), 255], dtype=np.uint8)
    assert raw_of_class(classes).tolist() == [*INVERSE_MAP, 1]
    assert CLASS_OF_RAW[raw_of_class(classes)].tolist() == classes.tolist()
    with pytest.raises(ValueError, match="20 is no class"):
        raw_of_class(np.array([3, 20], dtype=np.uint8))


def test_splits_hold_each_sequence_once() -> None:
    assert sorted(name for names in SPLITS.values() for name in names) == [f"{number:02}" for number in range(22)]


def test_the_first_voxel_is_the_highest_bit() -> None:
    voxels = np.zeros((1, 2, 8), dtype=bool)
    voxels[0, 0, 0] = voxels[0, 1, 6] = True
    assert write_bits(voxels) == bytes([0b1000_0000, 0b0000_0010])
    np.testing.assert_array_equal(read_bits(write_bits(voxels), (1, 2, 8)), voxels)
    with pytest.raises(ValueError, match=r"has 3 bytes, expected 2"):
        read_bits(b"abc", (1, 2, 8))
    with pytest.raises(ValueError, match="whole bytes"):
        write_bits(np.zeros((1, 1, 3), dtype=bool))


def test_voxel_labels_are_little_endian_with_z_fastest() -> None:
    raw = np.zeros((2, 1, 2), dtype=np.uint16)
    raw[0, 0, 1], raw[1, 0, 0] = 252, 0x0110
    assert write_voxel_labels(raw) == bytes([0, 0, 252, 0, 0x10, 1, 0, 0])
    np.testing.assert_array_equal(read_voxel_labels(write_voxel_labels(raw), (2, 1, 2)), raw)
    with pytest.raises(ValueError, match="has 7 bytes, expected 8"):
        read_voxel_labels(b"1234567", (2, 1, 2))


def test_point_labels_hold_class_and_instance() -> None:
    labels = np.array([0x0003_00FC, 40], dtype=np.uint32)
    raw, instance = split_label(labels)
    assert (raw.tolist(), instance.tolist()) == ([252, 40], [3, 0])
    np.testing.assert_array_equal(join_label(raw, instance), labels)


@pytest.mark.parametrize("kind", ["bin", "invalid", "occluded"])
def test_real_files_come_back_byte_for_byte(kind: str) -> None:
    files = sorted(KITTI.glob(f"*/voxels/*.{kind}"))
    if not files:
        pytest.skip("no real SemanticKITTI frames in the shared data folder beside the repository")
    for file in files:
        data = file.read_bytes()
        assert write_bits(read_bits(data, SEMANTICKITTI_GRID.shape)) == data
