"""Scores during training, on a fixed sample of a split that all processes share."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from pathlib import Path

import torch

from protoocc.averaging import WeightAverage
from protoocc.compatibility import check_shards
from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.inference import predict_keyframe, reader_for
from protoocc.metrics import Confusion
from protoocc.network import Network
from protoocc.ranks import Ranks


class Validation:
    """Scores a network every ``config.validation.every`` steps; nothing of the training depends on it."""

    def __init__(self, config: TrainConfig, shards: Path, ranks: Ranks) -> None:
        """Opens the split and chooses its samples.

        Raises:
            DataError: no such split, or it is damaged.
            ConfigError: its grid or class table is not the network's.
        """
        self.settings, self.classes, self.ranks = config.validation, config.classes, ranks
        split = open_shards(shards, config.validation.split)
        check_shards(config, split)
        self.dataset = reader_for(config.model, split)
        self.chosen = spread(len(split.samples), config.validation.samples)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether scores are wanted after a step: every n steps and after the last one."""
        every = self.settings.every
        return every is not None and (step % every == 0 or step == steps)

    def scores(self, model: Network, average: WeightAverage | None) -> dict[str, float]:
        """Every single figure of `protoocc.metrics.Confusion.scores` by name, shares 0..1, those that exist.

        Args:
            model: in training mode, where it is again afterwards, with the same weights and random state.
            average: weights that are scored in place of the model's.
        """
        confusion = Confusion(self.classes)
        inside = nullcontext() if average is None else average.inside(model)
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), inside:
            model.eval()
            try:
                for index in self.chosen[self.ranks.rank :: self.ranks.size]:
                    keyframe = self.dataset[index]
                    predicted = predict_keyframe(model, keyframe)
                    confusion.add(predicted, keyframe.semantics, keyframe.mask_camera != 0)
            finally:
                model.train()
        counts = self.ranks.sum(torch.from_numpy(confusion.counts).to(device))
        confusion.counts = counts.cpu().numpy()
        found = dataclasses.asdict(confusion.scores())
        return {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}

    def close(self) -> None:
        """Closes the shards."""
        self.dataset.close()


def spread(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` different numbers of 0..total-1 at equal distances: all scenes have their share."""
    count = min(total, wanted)
    return [number * total // count for number in range(count)]
