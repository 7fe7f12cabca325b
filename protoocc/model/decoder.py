"""Multi-perspective occupancy decoding: one scene, upsampled from several augmented queries (section 3.3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from protoocc.draws import draw_generator
from protoocc.model.detail import SHARES, Detail
from protoocc.model.parts_config import Augmentation, PartsConfig, UpsampleStage

SPATIAL: tuple[Augmentation, ...] = ("transpose", "flip_x", "flip_y")
"""Augmentations that move voxels and are undone after upsampling."""


def augment(
    queries: Float[Tensor, "B h w z d"],
    augmentation: Augmentation,
    *,
    dropout: float,
    noise: float,
    generators: Sequence[torch.Generator] | None = None,
) -> Float[Tensor, "B _ _ z d"]:
    """One augmented copy of the encoded voxel queries.

    Args:
        queries: the original view.
        augmentation: ``dropout`` zeroes values and scales the others up, ``gaussian`` adds noise; ``transpose`` swaps
            x and y, ``flip_x`` and ``flip_y`` mirror.
        dropout: probability of a dropped value.
        noise: standard deviation of the noise.
        generators: what each sample draws from; None for torch's global generator.
    """
    if augmentation == "dropout":
        return queries * (_draw(torch.rand, queries, generators) >= dropout) / (1.0 - dropout)
    if augmentation == "gaussian":
        return queries + noise * _draw(torch.randn, queries, generators)
    if augmentation == "transpose":
        return queries.transpose(1, 2)
    return queries.flip(1 if augmentation == "flip_x" else 2)


def _draw(
    draw: Callable[..., Tensor], like: Float[Tensor, "*any"], generators: Sequence[torch.Generator] | None
) -> Float[Tensor, "*any"]:
    """Random numbers of one shape and type, those of each sample from its own generator."""
    kind = {"dtype": like.dtype, "device": like.device}
    if generators is None:
        return draw(like.shape, **kind)
    return torch.stack([draw(like.shape[1:], generator=generator, **kind) for generator in generators])


def undo(volume: Shaped[Tensor, "x y z"], augmentation: Augmentation) -> Shaped[Tensor, "_ _ z"]:
    """The inverse of a spatial augmentation on an upsampled volume; feature augmentations leave it as it is."""
    if augmentation == "transpose":
        return volume.transpose(0, 1)
    if augmentation in ("flip_x", "flip_y"):
        return volume.flip(0 if augmentation == "flip_x" else 1)
    return volume


class Upsample(nn.Module):
    """The shared transposed 3D convolution V = up(Q), in one or more stages with norm and ReLU between them.

    Only voxels that are asked for leave it. A last stage whose kernel equals its stride is one matrix product for each
    place within the cell, computed for those voxels alone.
    """

    def __init__(self, channels: int, stages: tuple[UpsampleStage, ...]) -> None:
        """Builds one transposed convolution per stage."""
        super().__init__()
        self.stages = nn.ModuleList()
        for stage in stages:
            self.stages.append(_transposed_convolution(channels, stage))
            channels = stage.channels
        self.norms = nn.ModuleList(nn.BatchNorm3d(stage.channels) for stage in stages[:-1])
        self.is_product = stages[-1].kernel == stages[-1].stride

    def forward(self, queries: Float[Tensor, "n h w z d"], voxels: Int64[Tensor, " k"] | None) -> Float[Tensor, "k C"]:
        """Features of chosen voxels, positions in the flattened (n, X, Y, Z) volume of all views; None for all."""
        volume = queries.movedim(-1, 1)
        for stage, norm in zip(self.stages[:-1], self.norms, strict=True):
            volume = functional.relu(norm(stage(volume)))
        last: nn.ConvTranspose3d = self.stages[-1]  # type: ignore[assignment]
        if self.is_product and voxels is not None:
            return _product_at(volume.movedim(1, -1), last, voxels)
        upsampled: Tensor = last(volume).movedim(1, -1).flatten(0, 3)
        return upsampled if voxels is None else upsampled.index_select(0, voxels)


def _transposed_convolution(channels: int, stage: UpsampleStage) -> nn.ConvTranspose3d:
    x, y, z = ((k - s) // 2 for k, s in zip(stage.kernel, stage.stride, strict=True))
    layer = nn.ConvTranspose3d(channels, stage.channels, stage.kernel, stride=stage.stride, padding=(x, y, z))
    # torch's start takes the kernel for the number of inputs of a voxel, although the stride leaves only a part of it.
    inputs = channels * math.prod(stage.kernel) / math.prod(stage.stride)
    nn.init.normal_(layer.weight, std=math.sqrt(2.0 / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _product_at(
    cells: Float[Tensor, "n h w z d"], layer: nn.ConvTranspose3d, voxels: Int64[Tensor, " k"]
) -> Float[Tensor, "k C"]:
    """A transposed convolution with kernel = stride, at chosen voxels: weight[:, :, place in cell]^T @ cell + bias."""
    edge: tuple[int, int, int] = layer.stride  # type: ignore[assignment]
    views, height, width, depth = cells.shape[:4]
    view, x, y, z = torch.unravel_index(voxels, (views, height * edge[0], width * edge[1], depth * edge[2]))
    row, column, layer_z = (torch.div(i, e, rounding_mode="floor") for i, e in zip((x, y, z), edge, strict=True))
    cell = ((view * height + row) * width + column) * depth + layer_z
    place = (x % edge[0] * edge[1] + y % edge[1]) * edge[2] + z % edge[2]
    order = torch.argsort(place, stable=True)
    counts = torch.bincount(place, minlength=math.prod(edge)).tolist()
    grouped = cells.flatten(0, 3).index_select(0, cell[order]).split(counts)
    weights = layer.weight.flatten(2).unbind(-1)
    products = torch.cat([group @ weight for group, weight in zip(grouped, weights, strict=True)])
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    features = products.index_select(0, back)
    return features if layer.bias is None else features + layer.bias


def classifier_bias(classes: int, free: int, prior: float) -> Float[Tensor, " L"]:
    """Biases with which an untrained classifier predicts free space with a probability of ``prior``."""
    bias = torch.zeros(classes)
    bias[free] = math.log(prior * (classes - 1) / (1.0 - prior))
    return bias


class Decoder(nn.Module):
    """P augmented views beside the original, one shared upsampling and one label classifier G."""

    def __init__(self, config: PartsConfig, *, with_detail: bool = False) -> None:
        """Builds upsampling and classifier; the classifier starts at the prior of free space.

        Args:
            config: of the network.
            with_detail: classified voxels bring what they read themselves.
        """
        super().__init__()
        self.augmentations = config.augmentations if config.multi_perspective else ()
        self.dropout, self.noise = config.dropout, config.noise
        self.grid_shape = config.grid.shape
        self.upsample = Upsample(config.channels, config.upsample)
        features = config.upsample[-1].channels
        if with_detail:
            features += features + SHARES + config.num_classes
            self.trust = nn.Parameter(torch.tensor(0.5))
        label = nn.Linear(config.classifier_channels, config.num_classes)
        self.classifier = nn.Sequential(nn.Linear(features, config.classifier_channels), nn.ReLU(), label)
        with torch.no_grad():
            label.bias.copy_(classifier_bias(config.num_classes, config.free_class, config.free_prior))

    def forward(
        self,
        queries: Float[Tensor, "B h w z d"],
        voxels: Int64[Tensor, " n"] | None = None,
        seeds: Sequence[int] | None = None,
        detail: Detail | None = None,
    ) -> Float[Tensor, "views n L"]:
        """Class logits of chosen voxels in every view.

        Args:
            queries: encoded voxel queries.
            voxels: positions in the (B, X, Y, Z) volume, flattened; None for all of them.
            seeds: of what each sample draws (`Batch.seeds`).
            detail: what these voxels read themselves, for a network with ``voxel_detail``.

        Returns:
            Logits; view 0 is the original, and the only one outside training. The spatial augmentation of the others is
            undone: entry n of each view is the same voxel of the scene.
        """
        names = self.augmentations if self.training else ()
        if voxels is None and not names:
            return self._classify(self.upsample(queries, None)[None], detail)
        generators = None if seeds is None else [draw_generator(seed, "views", queries.device) for seed in seeds]
        views = [queries] + [
            augment(queries, name, dropout=self.dropout, noise=self.noise, generators=generators) for name in names
        ]
        per_volume = math.prod(self.grid_shape)
        if voxels is None:
            voxels = torch.arange(len(queries) * per_volume, device=queries.device)
        sample = torch.div(voxels, per_volume, rounding_mode="floor") * per_volume
        place = voxels - sample
        volume = torch.arange(per_volume, device=queries.device).view(self.grid_shape)
        indices = [voxels]
        for number, name in enumerate(names, start=1):
            in_view = undo(volume, name).reshape(-1)[place] if name in SPATIAL else place
            indices.append(in_view + sample + number * len(queries) * per_volume)
        features = self.upsample(torch.cat(views), torch.cat(indices))
        return self._classify(features.unflatten(0, (len(views), len(voxels))), detail)

    def original(
        self, queries: Float[Tensor, "B h w z d"], voxels: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "1 n L"]:
        """Class logits of chosen voxels in the original view alone, in training as well; None for all of them."""
        return self._classify(self.upsample(queries, voxels)[None], None)

    def _classify(self, features: Float[Tensor, "views n c"], detail: Detail | None) -> Float[Tensor, "views n L"]:
        if detail is None:
            logits: Tensor = self.classifier(features)
            return logits
        own = torch.cat(detail, dim=-1).expand(len(features), -1, -1)
        classified: Tensor = self.classifier(torch.cat([features, own], dim=-1))
        return classified + self.trust * detail.evidence
