"""Table 2: parameters of VoxFormer against its public configuration, the generated street, and the table itself."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from protoocc.bench import table2
from protoocc.bench.table2 import CASES, choose_cases, measure_table2, street
from protoocc.hosts import build_network
from protoocc.model.pseudo_lidar import back_project
from protoocc.network import Network
from protoocc.presets import PRESETS
from schemas.errors import ConfigError


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


D, HEADS, POINTS, HIDDEN = 128, 8, 8, 256
FEED_FORWARD = linear(D, HIDDEN) + linear(HIDDEN, D) + 2 * 2 * D
CROSS = linear(D, HEADS * POINTS * 2) + linear(D, HEADS * POINTS) + 2 * linear(D, D) + FEED_FORWARD
SELF = linear(2 * D, HEADS * 2 * POINTS * 2) + linear(2 * D, HEADS * 2 * POINTS) + 2 * linear(D, D) + FEED_FORWARD
QUERIES, FOLDED = 128 * 128 * 16 * D, (512 + 512) * D // 2
PYRAMID = linear(1024, D) + linear(9 * D, D)
HEADER = 2 * D + linear(D, 20)
RESNET, STAGE_4 = 23_508_032, 14_964_736
"""ResNet-50 without its classifier, and its fourth stage alone."""
EMBEDDINGS = 2 * (4 * D + D)
"""Of scales (four, one is read) and of the camera, in both of the public transformers."""


def planned(preset: str) -> Network:
    with torch.device("meta"):
        return build_network(PRESETS[preset]().model)


def count(network: Network, *prefixes: str) -> int:
    return sum(value.numel() for name, value in network.named_parameters() if name.startswith(prefixes or ("",)))


def test_voxformer_has_the_parameters_of_its_public_configuration_but_for_what_nothing_reads() -> None:
    public = RESNET + PYRAMID + QUERIES + D + FOLDED + 3 * CROSS + 2 * SELF + EMBEDDINGS + HEADER
    assert public == next(case.public_parameters for case in CASES if case.preset == "voxformer-base") == 58_179_988
    network = planned("voxformer-base")
    assert count(network, "image_features.resnet.") == RESNET - STAGE_4 == 8_543_296
    assert count(network, "image_features.pyramid.") == PYRAMID
    assert count(network, "voxel_queries.") == QUERIES + D
    assert count(network, "positions.") == FOLDED
    assert count(network, "seed_layers.") == 3 * CROSS == 372_672
    assert count(network, "spread_layers.") == 2 * SELF == 396_288
    assert count(network, "header.") == HEADER
    assert count(network) == public - STAGE_4 - EMBEDDINGS + D == 43_214_100


def test_small_differs_from_base_by_its_tables_alone() -> None:
    base, small = planned("voxformer-base"), planned("voxformer-small")
    tables = QUERIES - 64 * 64 * 8 * D + FOLDED - (128 + 256) * D // 2
    assert count(base) - count(small) == tables


@pytest.mark.parametrize(("size", "decoder"), [("base", 64 * D * 32 + 32), ("small", 64 * D * 160 + 160 + 2 * D)])
def test_parts_of_the_paper_add_what_they_are_made_of(size: str, decoder: int) -> None:
    """Mapping: three maps and two scalars a layer; X: two scalars; views: convolutions, classifier, no header."""
    mapping, classifier = 3 * (3 * linear(D, D) + 2) + 2, linear(32, 32) + linear(32, 20)
    added = count(planned(f"voxformer-{size}-protoocc")) - count(planned(f"voxformer-{size}"))
    assert added == mapping + decoder + classifier - HEADER


def test_street_is_where_it_is_said_to_be() -> None:
    batch = street()
    assert batch.input_depth_m is not None
    points, _ = back_project(batch.input_depth_m, batch.image_from_camera, batch.camera_from_ego)
    x, y, z = (points - torch.tensor([0.27, 0.06, -0.08])).unbind(1)  # from the camera
    on_road, on_facade, at_end = (z + 1.65).abs() < 0.01, (y.abs() - 9).abs() < 0.01, (x - 50).abs() < 0.01
    assert (on_road | on_facade | at_end).all()
    assert min(int(part.sum()) for part in (on_road, on_facade, at_end)) > 5_000
    assert (z >= -1.66).all() and (y.abs() <= 9.01).all() and (x <= 50.01).all()


def test_rows_bring_their_hosts() -> None:
    assert [case.preset for case in choose_cases(["voxformer-small-protoocc"])] == [
        "voxformer-small",
        "voxformer-small-protoocc",
    ]
    assert choose_cases(None) == list(CASES)
    with pytest.raises(ConfigError, match="no row demo; known: voxformer-small"):
        choose_cases(["demo"])


@pytest.mark.slow
def test_table_tells_what_the_parts_add(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (table2.Case("voxformer-demo"), table2.Case("voxformer-demo-protoocc", "voxformer-demo"))
    monkeypatch.setattr(table2, "CASES", rows)
    table = measure_table2(torch.device("cpu"), rounds=1)
    host, parts = table.rows
    assert host.added_params_m is None and parts.added_params_m == parts.params_m - host.params_m
    assert parts.added_gflops == parts.gflops - host.gflops != 0
    assert host.milliseconds is not None and host.milliseconds > 0
    result = CliRunner().invoke(app, ["bench", "table2", "--rounds", "0", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"][0]["gflops"] == host.gflops
