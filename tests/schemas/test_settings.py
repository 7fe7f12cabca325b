"""Settings that `--set` changes: every field can be, also one that is not stored while it has its default."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from pipelines.masks import GENERATORS
from pipelines.masks.config import SeedsConfig
from pipelines.occupancy import LidarConfig
from schemas.errors import ConfigError
from schemas.settings import Frozen, flatten, override, set_options


class Inner(Frozen):
    edge: int = Field(3, exclude_if=lambda value: value == 3)


class Outer(Frozen):
    inner: Inner = Inner()
    is_fast: bool = Field(False, exclude_if=lambda value: value is False)


def test_fields_that_are_not_stored_are_set_all_the_same() -> None:
    assert Outer().model_dump() == {"inner": {}}
    assert override(Outer(), ["inner.edge=4", "is_fast=true"]) == Outer(inner=Inner(edge=4), is_fast=True)
    assert override(Outer(is_fast=True), ["is_fast=false"]) == Outer()
    with pytest.raises(ConfigError, match="unknown field 'edges'; known fields of inner: edge"):
        override(Outer(), ["inner.edges=4"])


@pytest.mark.parametrize("config", [*(generator.config for generator in GENERATORS.values()), LidarConfig])
def test_every_setting_of_a_stage_has_a_name(config: type[BaseModel]) -> None:
    """No field takes a list of lists, so a known one is refused for its value."""
    for name in config.model_fields:
        with pytest.raises(ConfigError, match=f"^--set: field '{name}"):
            override(config(), [f"{name}=[[[]]]"])


def test_options_are_read_back() -> None:
    changed = SeedsConfig(segments=91, connected=True)
    assert set_options(changed) == ["--set", "segments=91", "--set", "connected=true"]
    assert set_options(changed, without=["segments"]) == ["--set", "connected=true"]
    assert override(SeedsConfig(), set_options(changed)[1::2]) == changed
    assert flatten(changed.model_dump()) == {"segments": 91, "iterations": 10, "connected": True}
