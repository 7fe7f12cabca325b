"""Table 3: what is counted, the published figures, and the table's own arithmetic."""

from __future__ import annotations

import pytest
import torch

from cli.bench_table3 import generated_rig
from protoocc.bench.flops import paper_flops, parameters, true_flops
from protoocc.bench.memory import training_memory_gb
from protoocc.bench.table3 import CASES, Rig, measure_table3
from protoocc.model import ProtoOcc, bevformer_tiny, panoocc_base, panoocc_small, panoocc_small_dfa3d, protoocc_small
from protoocc.presets import PRESETS
from schemas.errors import ConfigError
from tests.protoocc.test_model import make_batch, tiny_model


@pytest.mark.parametrize(
    ("config", "published_m"),
    [(panoocc_base(), 46.24), (panoocc_small(), 15.52), (protoocc_small(), 16.11)],
)
def test_sizes_are_the_published_ones(config: object, published_m: float) -> None:
    """Exactly to two decimals, counted on the live modules."""
    with torch.device("meta"):
        assert round(parameters(ProtoOcc(config)) / 1e6, 2) == published_m


def test_size_of_dfa3d_is_near_the_published_one() -> None:
    """22.32 M from the public structure, 22.33 M in the paper."""
    with torch.device("meta"):
        assert parameters(ProtoOcc(panoocc_small_dfa3d())) / 1e6 == pytest.approx(22.33, abs=0.02)


def test_paper_counting_by_hand() -> None:
    """One layer of 16 channels, 2 heads, 2 points, 2 scales, no prototypes; queries 8 x 8 x 2, cells 96 + 24 a camera.

    Self attention per query: 32 -> 16 offsets, 32 -> 8 weights, values 16 x 16 twice, output 16 x 16; feed-forward
    16 -> 32 -> 16; output of cross attention 16 x 16. Per cell a value 16 x 16. Per padded hit 16 -> 16 and 16 -> 8.
    """
    changes = {"encoder_layers": 1, "prototype_mapping": False, "prototype_optimisation": False}
    model, batch = ProtoOcc(tiny_model(**changes)).eval().requires_grad_(False), make_batch()
    features = model.image_features(batch.images.flatten(0, 1))
    hits = model.find_hits((40, 70), batch.image_from_camera, batch.camera_from_ego)
    assert sum(f.shape[-2] * f.shape[-1] for f in features) == 96 + 24
    queries, cells, padded = 128, 3 * 120, 3 * max(hits.counts)
    per_query = 32 * 16 + 32 * 8 + 3 * 256 + 2 * 16 * 32 + 256
    by_hand = 2 * (queries * per_query + cells * 256 + padded * (16 * 16 + 16 * 8))
    assert len(set(hits.counts)) > 1
    assert paper_flops(model, features, hits) == by_hand
    assert true_flops(model, features, hits, []) < 2 * by_hand


def test_rig_scales_with_the_image() -> None:
    """Twice the pixels, twice the focal length; another aspect is refused."""
    rig = generated_rig()
    torch.testing.assert_close(rig.resized((864, 1600))[:, :2], 2 * rig.image_from_camera[:, :2])
    with pytest.raises(ConfigError, match="do not scale"):
        rig.resized((900, 1600))


def test_unknown_row_is_named() -> None:
    with pytest.raises(ConfigError, match="no row vit; known: bevformer-base"):
        measure_table3(generated_rig(), torch.device("cpu"), presets=["vit"])
    of_the_paper = {name for name, make in PRESETS.items() if make().model.kind == "protoocc"}
    assert {case.preset for case in CASES} == of_the_paper - {"demo", "protoocc-mini"}


@pytest.mark.slow
def test_published_gflops() -> None:
    """330 and 378 GFLOPs within 1 % in the paper's counting; the first row is always there and its ratio is 1."""
    table = measure_table3(generated_rig(), torch.device("cpu"), presets=["panoocc-small", "protoocc-small"], rounds=1)
    rows = {(row.model, row.image_size): row for row in table.rows}
    assert rows["panoocc-small", (432, 800)].gflops_paper == pytest.approx(330, rel=0.01)
    assert rows["protoocc-small", (432, 800)].gflops_paper == pytest.approx(378, rel=0.01)
    assert table.rows[0].ratio == 1.0
    assert table.rows[0].model == "panoocc-base"


@pytest.mark.slow
def test_memory_of_a_step() -> None:
    """The smallest preset: more than its weights, gradients and moments, less than this machine has."""
    rig: Rig = generated_rig()
    peak = training_memory_gb("bevformer-tiny", (rig.resized((216, 400)), rig.camera_from_ego), (216, 400))
    with torch.device("meta"):
        size_gb = 4e-9 * sum(p.numel() for p in ProtoOcc(bevformer_tiny()).parameters())
    assert peak is not None
    assert 4 * size_gb < peak < 16
