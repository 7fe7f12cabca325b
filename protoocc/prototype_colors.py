"""What the clustering sees: every image cell in the colour of its most similar prototype."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from protoocc.network import ImagePrototypes


def prototype_colors(found: ImagePrototypes) -> UInt8[np.ndarray, "V h w 3"]:
    """Colour of each image cell, that of its most similar prototype.

    Prototypes alike have colours alike: red, green and blue are the three main axes along which the prototypes of all
    cameras differ.
    """
    features, prototypes = found.features, found.prototypes
    directions = functional.normalize(features.flatten(2).mT, dim=-1)
    nearest = (directions @ functional.normalize(prototypes, dim=-1).mT).argmax(-1)
    shades = _main_axes(prototypes.flatten(0, 1)).unflatten(0, prototypes.shape[:2])
    cells = torch.stack([shade[index] for shade, index in zip(shades, nearest, strict=True)])
    shown = cells.unflatten(1, features.shape[-2:])
    colors: UInt8[np.ndarray, "V h w 3"] = (255 * shown).round().to(torch.uint8).cpu().numpy()
    return colors


def _main_axes(points: Float[Tensor, "n d"]) -> Float[Tensor, "n 3"]:
    """Places along the three main axes, 0..1 from the 2nd to the 98th percentile of each."""
    centred = functional.normalize(points, dim=-1)
    centred = centred - centred.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    signs = torch.where(axes[:3].sum(1, keepdim=True) < 0, -1.0, 1.0)
    places = centred @ (axes[:3] * signs).T
    low, high = torch.quantile(places, 0.02, dim=0), torch.quantile(places, 0.98, dim=0)
    return ((places - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
