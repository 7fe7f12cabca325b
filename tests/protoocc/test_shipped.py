"""The image features that ship with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from protoocc.hosts import build_network
from protoocc.presets import DEMO_FEATURES, read_preset
from protoocc.weights import check_weights, fill, read_weights
from schemas.errors import CheckpointError

FILE = Path(DEMO_FEATURES.file)


def test_the_file_is_small_and_the_one_that_is_named() -> None:
    data = FILE.read_bytes()
    assert len(data) < 4_000_000
    assert hashlib.sha256(data).hexdigest() == DEMO_FEATURES.sha256


def test_the_card_says_how_it_was_made_and_how_good_it_is() -> None:
    card = json.loads(FILE.with_suffix(".json").read_text())
    assert card["command"].startswith("protoocc pretrain images --preset demo ")
    assert card["scores"]["pixel_accuracy"] > 0.85
    assert card["data"]["source"] == "truth"


@pytest.mark.parametrize("preset", ["demo", "plain", "protoocc-mini", "monoscene-demo", "tpvformer-demo"])
def test_it_fills_the_image_features_of_its_presets(preset: str) -> None:
    """Every parameter and statistic of the features, and the head for depth of the network that has one."""
    config = read_preset(preset)
    assert config.weights == DEMO_FEATURES
    network, weights = build_network(config.model), read_weights(FILE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fill(network, weights)
    after = network.state_dict()
    parts = ("image_features.", "pixel_heads.")
    same = [
        n
        for n, v in after.items()
        if n.startswith(parts) and v.equal(before[n]) and not n.endswith("num_batches_tracked")
    ]
    assert same == []
    assert any(name.startswith("pixel_heads.depth") for name in after) == (preset in ("demo", "protoocc-mini"))


def test_another_network_is_told_how_to_go_without() -> None:
    config = read_preset("demo", ["model.channels=32"])
    with pytest.raises(
        CheckpointError, match=r"--set model.channels=64 \(or, to start without it, --set weights=null\)"
    ):
        check_weights(config.model, read_weights(FILE))
