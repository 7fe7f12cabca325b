"""`bench inference`: the table's arithmetic on the smallest preset, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from cli.bench_table3 import generated_rig
from protoocc.bench.inference import InferenceChoice, measure_inference
from schemas.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_parts_add_up() -> None:
    calls: list[tuple[int, int]] = []
    choice = InferenceChoice(models=("demo",), ways=("eager",), width=200, rounds=1)
    result = measure_inference(generated_rig(), CPU, choice, lambda done, total: calls.append((done, total)))
    assert result.image_size == (108, 200) and result.left_out == () and calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(row.way, row.dtype) for row in result.rows] == [("eager", "float32"), ("eager", "bfloat16")]
    assert result.rows[0].ratio == 1.0
    for row in result.rows:
        assert list(row.part_ms) == list(row.part_mb) == ["images", "view", "decoding"]
        assert row.total_ms == pytest.approx(sum(row.part_ms.values())) and min(row.part_ms.values()) > 0
        assert row.ratio == pytest.approx(row.total_ms / result.rows[0].total_ms)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ConfigError, match="no preset demmo; .*Did you mean demo"):
        measure_inference(generated_rig(), CPU, InferenceChoice(models=("demmo",)))
    with pytest.raises(ConfigError, match="--width 170: a multiple of 50"):
        measure_inference(generated_rig(), CPU, InferenceChoice(models=("demo",), width=170))
