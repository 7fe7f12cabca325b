from __future__ import annotations

import pytest

from protoocc.config import ScheduleConfig, TrainConfig, changed_fields, override
from protoocc.presets import PRESETS
from schemas.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_survive_json(name: str) -> None:
    config = PRESETS[name]()
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_paper_presets_hold_section_4_1() -> None:
    shapes = {name: PRESETS[name]().model.query_shape for name in ("base", "small", "tiny")}
    assert shapes == {"base": (100, 100, 16), "small": (50, 50, 16), "tiny": (50, 50, 4)}
    assert PRESETS["small"]().schedule.epochs == 12


def test_override_changes_only_the_named_fields(tiny_config: TrainConfig) -> None:
    changed = override(tiny_config, ["optimizer.lr=1e-3", "model.query_shape=[4,4,2]", "precision=bfloat16"])
    assert changed.optimizer.lr == 1e-3
    assert changed_fields(tiny_config.model_dump(mode="json"), changed.model_dump(mode="json")) == [
        "optimizer.lr: was 0.01, now 0.001",
        'precision: was "float32", now "bfloat16"',
    ]
    assert override(tiny_config, ["schedule.steps=null", "schedule.epochs=2"]).schedule.epochs == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", "unknown field 'lrr'; known fields of optimizer: lr, backbone_lr_factor"),
        ("optimiser.lr=1", "unknown field 'optimiser'; known fields of the configuration: model, loss"),
        ("optimizer.lr.top=1", "unknown field 'top'; known fields of optimizer.lr: none, it is a single value"),
        ("optimizer.lr", "expected path=value"),
        ("=3", "expected path=value"),
        ("optimizer.lr=fast", "field 'optimizer.lr' = 'fast'"),
        ("optimizer.lr=-1", "greater than 0"),
        ("schedule.epochs=3", "either steps or epochs"),
        ("model.query_shape=[4,4,3]", "upsample turns query_shape"),
    ],
)
def test_override_refuses_with_the_field_named(tiny_config: TrainConfig, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(tiny_config, [assignment])


def test_schedule_needs_one_length() -> None:
    with pytest.raises(ValueError, match="either steps or epochs"):
        ScheduleConfig()
