"""Parts of a network that another run has trained, such as what proposes the queries of a VoxFormer."""

from __future__ import annotations

from pathlib import Path

import torch

from protoocc.checkpoint import load_network
from protoocc.network import Network
from schemas.errors import CheckpointError


@torch.no_grad()
def fill_parts(model: Network) -> None:
    """Fills the parts that `Network.trained_parts` names with the weights of their runs.

    Raises:
        CheckpointError: a run has no readable checkpoint, or its part has other names or shapes.
    """
    own = model.state_dict()
    for start, run in model.trained_parts().items():
        network, _ = load_network(Path(run))
        given = {name: value for name, value in network.state_dict().items() if name.startswith(start)}
        wanted = {name: value for name, value in own.items() if name.startswith(start)}
        odd = sorted(given.keys() ^ wanted.keys()) or [
            name for name, value in wanted.items() if value.shape != given[name].shape
        ]
        if odd:
            there, here = (dict(found).get(odd[0]) for found in (given, wanted))
            shapes = ["no such tensor" if found is None else str(tuple(found.shape)) for found in (there, here)]
            raise CheckpointError(
                f"{run} does not fit: '{odd[0]}' is {shapes[0]} there and {shapes[1]} here. Name a run of the part "
                "that this network has, on the same grid and as wide as its settings say"
            )
        for name, value in given.items():
            wanted[name].copy_(value)
