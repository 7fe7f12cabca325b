"""Plans: sums by hand from measured rows, and nothing where nothing was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import protoocc
from protoocc import plan as plans
from protoocc.config import TrainConfig
from protoocc.plan import make_plan
from protoocc.presets import PRESETS, read_preset
from protoocc.rates import RATES, Rate
from schemas.errors import ConfigError
from schemas.settings import override

ROWS = (
    Rate(preset="protoocc-small", hardware="h100", device="H100", samples=1, seconds=0.9, memory_gb=20.0, commit="abc"),
    Rate(preset="protoocc-small", hardware="cpu", device="2 cores", samples=1, memory_gb=15.2, commit="def"),
)


def test_hours_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """28,130 samples 12 times in batches of 8 are 42,195 steps; at 8 x 0.9 s 84.39 hours, on 8 GPUs an eighth."""
    monkeypatch.setattr(plans, "RATES", ROWS)
    config = read_preset("protoocc-small")
    plan = make_plan(config, "protoocc-small", 28_130)
    assert (plan.steps, plan.batch_size) == (42_195, 8)
    gpu, cpu = plan.costs
    assert gpu.hours == pytest.approx(84.39) and (gpu.memory_gb, gpu.is_measured) == (20.0, False)
    assert cpu.hours is None and cpu.memory_gb == 15.2
    (eight,) = make_plan(config, "protoocc-small", 28_130, "8xh100").costs
    assert eight.hours == pytest.approx(84.39 / 8)
    assert (eight.devices, eight.samples, eight.is_measured) == (8, 1, False)
    one = override(config, ["data.batch_size=1"])
    assert make_plan(one, "protoocc-small", 28_130, "h100").costs[0].is_measured


def test_nothing_is_known_of_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "RATES", ROWS)
    changes = ["model.frames=1"], ["precision=bfloat16"]
    for change in changes:
        assert make_plan(read_preset("protoocc-small", change), "protoocc-small", 100).costs == ()
    assert make_plan(read_preset("protoocc-base"), "protoocc-base", 100).costs == ()
    with pytest.raises(ConfigError, match=r"--hardware h10: nothing was measured there; .* Did you mean h100\?"):
        make_plan(read_preset("protoocc-small"), "protoocc-small", 100, "h10")
    with pytest.raises(ConfigError, match=r"3 devices cannot share data.batch_size=8"):
        make_plan(read_preset("protoocc-small"), "protoocc-small", 100, "3xh100")


def make_own_run(folder: Path, config: TrainConfig, steps: int = 50) -> Path:
    """A run of slow first steps, then of 0.5 s each."""
    folder.mkdir()
    (folder / "config.json").write_text(config.model_dump_json())
    rows = [{"step": n, "seconds": 9.0 if n <= 20 else 0.5, "memory_gb": 3.0} for n in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "environment.json").write_text('{"protoocc": "0.1.0+abc", "GPUs": "none", "CPU": "mine"}')
    return folder


def test_a_run_of_ones_own_is_a_measurement(tmp_path: Path) -> None:
    """Its last 30 steps count: 42,195 steps of 4 times as many samples at 0.5 s are 23.44 hours."""
    config = read_preset("protoocc-small")
    run = make_own_run(tmp_path / "run", override(config, ["data.batch_size=2"]))
    (cost,) = make_plan(config, "protoocc-small", 28_130, like=run).costs
    assert cost.hours == pytest.approx(42_195 * 4 * 0.5 / 3600)
    assert (cost.device, cost.memory_gb, cost.memory_samples) == ("mine", 3.0, 2)
    assert (cost.commit, cost.is_measured) == ("0.1.0+abc", False)


def test_runs_that_measure_nothing_are_refused(tmp_path: Path) -> None:
    config = read_preset("protoocc-small")
    run = make_own_run(tmp_path / "run", config)
    with pytest.raises(ConfigError, match=r"--like .*run: it trains another network, with model.frames: was 4, now 1"):
        make_plan(override(config, ["model.frames=1"]), "protoocc-small", 100, like=run)
    with pytest.raises(ConfigError, match=r"--like .*run: .*precision: was \"float32\", now \"bfloat16\""):
        make_plan(override(config, ["precision=bfloat16"]), "protoocc-small", 100, like=run)
    short = make_own_run(tmp_path / "short", config, steps=7)
    with pytest.raises(ConfigError, match=r"7 timed steps; expected 40. Train it longer"):
        make_plan(config, "protoocc-small", 100, like=short)


def test_disk_is_what_checkpoints_take(shards: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    """Four checkpoints of weights and two moments: within a tenth and the files' own headers of a real one."""
    config = override(tiny_config, ["schedule.steps=2"])
    summary = protoocc.train(config, shards, tmp_path / "run")
    real = sum(path.stat().st_size for path in summary.checkpoint.iterdir())
    plan = make_plan(config, "demo", 5)
    assert plan.steps == 2
    planned = (1e9 * plan.disk_gb - 2 * 1200) / 4
    assert real - 120_000 < planned < 1.1 * real


def test_other_precisions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "RATES", ROWS)
    half = make_plan(override(read_preset("protoocc-small"), ["precision=bfloat16"]), "protoocc-small", 100, "h100")
    assert (half.costs, half.other_precisions) == ((), ("float32",))
    assert make_plan(read_preset("protoocc-small"), "protoocc-small", 100, "h100").other_precisions == ()


def test_rows_are_measurements_of_presets() -> None:
    for rate in RATES:
        assert rate.preset in PRESETS and rate.samples >= 1 and len(rate.commit) >= 7
        assert rate.seconds is not None or rate.memory_gb is not None
    results = (Path(__file__).parents[2] / "docs/results.md").read_text()
    assert not [rate for rate in RATES if rate.commit not in results]
