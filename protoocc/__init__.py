"""Learn from shards: networks, losses, training, scores and pictures; the names below are for your own Python.

Nothing is imported before it is used, so that `import protoocc` costs nothing. docs/python.md shows all of it. Labels
are made by `pipelines`, which this package never imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from protoocc.checkpoint import load_network
    from protoocc.config import TrainConfig
    from protoocc.data import ShardSet, open_shards
    from protoocc.data.web import as_webdataset
    from protoocc.evaluate import EvalReport, score
    from protoocc.hosts import build_network
    from protoocc.inference import predict
    from protoocc.network import Network, NetworkConfig, NetworkOutput
    from protoocc.pictures import draw
    from protoocc.presets import read_preset
    from protoocc.trainer import train

    __version__: str

__all__ = [
    "EvalReport",
    "Network",
    "NetworkConfig",
    "NetworkOutput",
    "ShardSet",
    "TrainConfig",
    "__version__",
    "as_webdataset",
    "build_network",
    "draw",
    "load_network",
    "open_shards",
    "predict",
    "read_preset",
    "score",
    "train",
]

_HOMES: Final = {
    "EvalReport": "evaluate",
    "Network": "network",
    "NetworkConfig": "network",
    "NetworkOutput": "network",
    "ShardSet": "data",
    "TrainConfig": "config",
    "as_webdataset": "data.web",
    "build_network": "hosts",
    "draw": "pictures",
    "load_network": "checkpoint",
    "open_shards": "data",
    "predict": "inference",
    "read_preset": "presets",
    "score": "evaluate",
    "train": "trainer",
}
"""Module of this package that defines each name."""


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        value: Any = import_module("schemas.version").release()
    elif name in _HOMES:
        value = getattr(import_module(f"protoocc.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'protoocc' has no attribute '{name}'; its public names: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, also before they are imported."""
    return sorted({*globals(), *__all__})
