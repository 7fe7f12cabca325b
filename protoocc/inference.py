"""Predictions of a trained network over a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8

from protoocc.data import ShardDataset, collate
from protoocc.data.decode import Keyframe
from protoocc.model import ProtoOcc


def predict_split(
    model: ProtoOcc, dataset: ShardDataset, *, limit: int | None = None
) -> Iterator[tuple[Keyframe, UInt8[np.ndarray, "X Y Z"]]]:
    """Keyframes of a split with the predicted class 0..17 of each voxel, in the order of the shards.

    Args:
        model: in evaluation mode, on the device that shall compute.
        dataset: the split.
        limit: stop after so many samples; None for all.
    """
    device = next(model.parameters()).device
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for index in range(count):
        keyframe = dataset[index]
        prediction = model.predict(collate([keyframe]).to(device))
        yield keyframe, prediction[0].cpu().numpy()


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
