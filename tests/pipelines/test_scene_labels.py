"""Labels of one scene from Python are those of the stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy import Occ3dConfig
from pipelines.occupancy.stored import open_labels, stored_labels
from pipelines.scene_labels import label_scene
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import read_index


def test_labels_of_a_scene_are_those_of_the_stages(world_dataset: DatasetSpec, stored: Path, tmp_path: Path) -> None:
    expected = {entry.token: entry.row for entry in read_index(stored / "records") if entry.scene == "synth-0001"}
    for _ in range(2):  # the second call reads what is there
        labels = label_scene(world_dataset, "synth-0001", tmp_path / "one", Occ3dConfig())
        assert list(labels) == list(expected)
        for token, row in expected.items():
            for name, array in stored_labels(open_labels(stored), row, token).items():
                assert np.array_equal(labels[token][name], array), (token, name)


def test_unknown_scene_is_named(world_dataset: DatasetSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synth-0009"):
        label_scene(world_dataset, "synth-0009", tmp_path / "one")
