"""Predictions of a network over a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8

from protoocc.data import Keyframe, ShardDataset, ShardSet, collate
from protoocc.network import Network, NetworkConfig


def reader_for(config: NetworkConfig, shards: ShardSet) -> ShardDataset:
    """The samples of a split, each with the earlier keyframes that a network reads."""
    return ShardDataset(shards, frames=config.frames, interval=config.frame_interval)


def predict(
    network: Network, shards: ShardSet, *, limit: int | None = None
) -> Iterator[tuple[Keyframe, UInt8[np.ndarray, "X Y Z"]]]:
    """Keyframes of a split with the predicted class of each voxel, in the order of the shards.

    Args:
        network: in evaluation mode, on the device that shall compute.
        shards: the split.
        limit: stop after so many samples; None for all.

    Raises:
        DataError: a sample is damaged.
        RuntimeError: the network is in training mode.
    """
    dataset = reader_for(network.config, shards)
    for index in dataset.arriving(range(len(dataset) if limit is None else min(limit, len(dataset)))):
        keyframe = dataset[index]
        yield keyframe, predict_keyframe(network, keyframe)


def predict_keyframe(network: Network, keyframe: Keyframe) -> UInt8[np.ndarray, "X Y Z"]:
    """Predicted class of each voxel of one keyframe.

    Args:
        network: in evaluation mode, on the device that shall compute.
        keyframe: with the earlier ones that the network reads, see `reader_for`.
    """
    device = next(network.parameters()).device
    prediction: UInt8[np.ndarray, "X Y Z"] = network.predict(collate([keyframe]).to(device))[0].cpu().numpy()
    return prediction


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
