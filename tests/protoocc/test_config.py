from __future__ import annotations

import pytest

from protoocc.ablations import ABLATIONS
from protoocc.config import ScheduleConfig, TrainConfig, changed_fields
from protoocc.presets import PRESETS
from schemas.errors import ConfigError
from schemas.settings import override


@pytest.mark.parametrize("name", PRESETS)
def test_preset_names_the_classes_of_its_network(name: str) -> None:
    """A run stores the table of its shards: another one in the preset would be taken for a change when it goes on."""
    config = PRESETS[name]()
    assert (config.model.num_classes, config.model.free_class) == (config.classes.num_classes, config.classes.free)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_survive_json(name: str) -> None:
    config = PRESETS[name]()
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


QUERIES = {
    "protoocc-base": (100, 100, 16),
    "protoocc-small": (50, 50, 16),
    "protoocc-tiny": (50, 50, 4),
    "panoocc-base": (100, 100, 16),
    "panoocc-small": (50, 50, 16),
    "panoocc-tiny": (50, 50, 4),
    "bevformer-base": (200, 200, 1),
    "bevformer-small": (100, 100, 1),
    "bevformer-tiny": (50, 50, 1),
}


def test_paper_presets_hold_section_4_1() -> None:
    for name, shape in QUERIES.items():
        config = PRESETS[name]()
        assert config.model.query_shape == shape
        assert (config.schedule.epochs, config.model.frames) == (12, 4)
        assert config.model.prototype_mapping is name.startswith("protoocc")
        assert config.model.views == (3 if name.startswith("protoocc") else 1)


def test_ablations_are_settings_of_protoocc_small() -> None:
    """Every row is a valid configuration; five rows of table 4, ten of table 5 without and with consistency."""
    small = PRESETS["protoocc-small"]()
    rows = {name: override(small, row.changes) for name, row in ABLATIONS.items()}
    assert sum(name.startswith("table4") for name in rows) == 5
    assert sum(name.startswith("table5") for name in rows) == 20
    assert rows["table4-none"].model == PRESETS["panoocc-small"]().model
    assert rows["table4-all"] == small
    pair = rows["table5-dropout-transpose"]
    assert pair.model.augmentations == ("dropout", "transpose")
    assert pair.loss.lambda_cons == 0
    assert rows["table5-dropout-transpose-consistent"].loss.lambda_cons > 0
    assert [rows[f"table6-r{r}"].model.prototype_cell for r in (2, 4, 6, 8)] == [2, 4, 6, 8]


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
        ("model.query_shape=[4,4,3]", r"query_shape \(4, 4, 3\)"),
    ],
)
def test_override_refuses_with_the_field_named(tiny_config: TrainConfig, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(tiny_config, [assignment])


def test_schedule_needs_one_length() -> None:
    with pytest.raises(ValueError, match="either steps or epochs"):
        ScheduleConfig()
