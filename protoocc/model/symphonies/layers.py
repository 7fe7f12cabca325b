"""Layers of Symphonies: instances read the image, the scene listens to them and to itself, instances read the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from protoocc.model.attention import ImageCrossAttention, Sampling
from protoocc.model.lifting import mean_of_cameras
from protoocc.model.projection import HitQueries
from protoocc.model.symphonies.config import SymphoniesConfig
from protoocc.model.symphonies.squeeze import squeeze


class FeedForward(nn.Module):
    """Norm, two linear maps with GELU between them, residual."""

    def __init__(self, channels: int, hidden: int) -> None:
        """Random weights."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Each row for itself."""
        changed: Tensor = rows + self.layers(self.norm(rows))
        return changed


class Look(nn.Module):
    """Norm, deformable attention, residual; then a feed-forward block where it has one."""

    def __init__(self, config: SymphoniesConfig, *, levels: int, points: int, hidden: int | None) -> None:
        """``hidden`` None leaves the feed-forward block out."""
        super().__init__()
        d = config.channels
        self.norm = nn.LayerNorm(d)
        self.attention = ImageCrossAttention(d, heads=config.heads, levels=levels, points=points)
        self.feed_forward = None if hidden is None else FeedForward(d, hidden)

    def forward(
        self,
        rows: Float[Tensor, "n d"],
        positions: Float[Tensor, "n d"] | None,
        maps: Sequence[Float[Tensor, "maps d _ _"]],
        hits: HitQueries,
    ) -> tuple[Float[Tensor, "n d"], Sampling]:
        """Rows after they have looked, and where each hit looked.

        Args:
            rows: what ``hits.row`` counts; those without a hit only go through the feed-forward block.
            positions: of each row; None for rows without a place of their own.
            maps: one per scale.
            hits: which rows look at which map and where; what a row sees is the mean over its hits.
        """
        looking = self.norm(rows) if positions is None else self.norm(rows) + positions
        sampled, sampling = self.attention(looking.index_select(0, hits.row), maps, hits)
        rows = rows + self.attention.combine(mean_of_cameras(sampled, hits, len(rows)))
        return rows if self.feed_forward is None else self.feed_forward(rows), sampling


class Listen(nn.Module):
    """Norm, attention to all instances of the same sample, residual; then a feed-forward block where it has one."""

    def __init__(self, config: SymphoniesConfig, *, hidden: int | None) -> None:
        """``hidden`` None leaves the feed-forward block out."""
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.attention = nn.MultiheadAttention(config.channels, config.heads, batch_first=True)
        self.feed_forward = None if hidden is None else FeedForward(config.channels, hidden)

    def forward(
        self,
        rows: Float[Tensor, "n d"],
        positions: Float[Tensor, "n d"] | None,
        instances: Float[Tensor, "B k d"],
        counts: list[int],
    ) -> Float[Tensor, "n d"]:
        """Rows after they have listened.

        Args:
            rows: of all samples, sample after sample.
            positions: of each row; None for rows without a place of their own.
            instances: keys and values, as they are.
            counts: rows of each sample.
        """
        asking = self.norm(rows) if positions is None else self.norm(rows) + positions
        heard = [
            self.attention(question[None], told[None], told[None], need_weights=False)[0][0]
            for question, told in zip(asking.split(counts), instances, strict=True)
        ]
        rows = rows + torch.cat(heard)
        return rows if self.feed_forward is None else self.feed_forward(rows)


@dataclass(frozen=True)
class Places:
    """Where scene queries and instances lie.

    Attributes:
        fov: rows of the queries flattened to (B*h*w*z) that a camera sees, rising.
        counts: how many of them each sample has.
        positions: learned positions of these queries.
        on_map: these queries on the squeezed map of their sample.
        in_image: instances in the image of their camera.
        in_scene: instances on the squeezed map of their sample.
    """

    fov: Int64[Tensor, " f"]
    counts: list[int]
    positions: Float[Tensor, "f d"]
    on_map: HitQueries
    in_image: HitQueries
    in_scene: HitQueries


class SymphoniesLayer(nn.Module):
    """One round; the last one leaves the instances as they are, as nobody reads them any more."""

    def __init__(self, config: SymphoniesConfig, *, is_last: bool) -> None:
        """Random weights."""
        super().__init__()
        hidden, twice = config.ffn_channels, 2 * config.points
        self.read_image = Look(config, levels=len(config.strides), points=config.points, hidden=hidden)
        self.hear_instances = Listen(config, hidden=None)
        self.read_scene = Look(config, levels=1, points=twice, hidden=hidden)
        self.gather = None if is_last else Look(config, levels=1, points=twice, hidden=None)
        self.share = None if is_last else Listen(config, hidden=hidden)

    def forward(
        self,
        scene: Float[Tensor, "B h w z d"],
        instances: Float[Tensor, "B k d"],
        maps: Sequence[Float[Tensor, "cameras d _ _"]],
        places: Places,
    ) -> tuple[Float[Tensor, "B h w z d"], Float[Tensor, "B k d"]]:
        """Scene and instances after the round; only queries that a camera sees change."""
        instances = self.read_image(instances.flatten(0, 1), None, maps, places.in_image)[0].view_as(instances)
        flat = scene.flatten(0, 3)
        rows = flat.index_select(0, places.fov)
        rows = self.hear_instances(rows, places.positions, instances, places.counts)
        rows, _ = self.read_scene(rows, places.positions, [squeeze(scene)], places.on_map)
        scene = flat.index_copy(0, places.fov, rows).view_as(scene)
        if self.gather is None or self.share is None:
            return scene, instances
        gathered, _ = self.gather(instances.flatten(0, 1), None, [squeeze(scene)], places.in_scene)
        counts = [instances.shape[1]] * len(instances)
        instances = self.share(gathered, None, gathered.view_as(instances), counts).view_as(instances)
        return scene, instances
