"""The one table from the kind of a configuration to its network."""

from __future__ import annotations

from typing import Any, Final

from protoocc.model import Plain, ProtoOcc
from protoocc.model.monoscene import MonoScene
from protoocc.model.symphonies import Symphonies
from protoocc.model.tpvformer import TpvFormer
from protoocc.model.voxformer import ProposalNetwork, VoxFormer
from protoocc.network import Network, NetworkConfig
from schemas.errors import ConfigError

HOSTS: Final[dict[str, type[Network]]] = {
    "protoocc": ProtoOcc,
    "plain": Plain,
    "voxformer": VoxFormer,
    "proposals": ProposalNetwork,
    "symphonies": Symphonies,
    "monoscene": MonoScene,
    "tpvformer": TpvFormer,
}
"""Networks by kind. PanoOcc, BEVFormer and DFA3D are settings of `protoocc`; another network is another line here."""

FIRST_KIND: Final = "protoocc"
"""Kind of configurations that were stored before they had one."""


def build_network(config: NetworkConfig) -> Network:
    """The network of a configuration with random weights, in training mode.

    Raises:
        ConfigError: no network of its kind.
    """
    if config.kind not in HOSTS:
        raise ConfigError(f"no network of kind '{config.kind}'; known: {', '.join(HOSTS)}")
    return HOSTS[config.kind](config)


def read_network(value: Any) -> Any:
    """Fields of a network's configuration as the configuration of their kind; for pydantic, before its own validation.

    Raises:
        ValueError: no fields, or a kind that is not in the table.
        ValidationError: fields that this kind does not take.
    """
    if isinstance(value, NetworkConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"expected the fields of a network, found {type(value).__name__}")
    kind = value.get("kind", FIRST_KIND)
    if kind not in HOSTS:
        raise ValueError(f"no network of kind {kind!r}; known: {', '.join(HOSTS)}")
    return HOSTS[kind].Config.model_validate({**value, "kind": kind})
