"""VoxFormer's first stage: from the cells where depth lies to the voxels that are occupied, by a network of our own.

In the manner of LMSCNet: heights are channels of a U-Net over x and y. It is a network of its own kind, trained and
scored like any other; a trained one proposes the queries of a VoxFormer.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from protoocc.batch import Batch
from protoocc.model.pseudo_lidar import depth_cells
from protoocc.model.unet import UNet
from protoocc.network import Network, NetworkConfig, NetworkOutput
from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID, VoxelGrid

_SURE: Final = 4.0
"""Logit of a cell where depth lies, for proposals as they are; its negative elsewhere."""


class ProposalsConfig(NetworkConfig):
    """Settings of the network that proposes."""

    kind: Literal["proposals"] = Field("proposals", description="Depth to occupied voxels: VoxFormer's first stage.")
    num_classes: int = Field(SEMANTICKITTI.num_classes, ge=2, description="Classes L of the labels, free included.")
    free: int | None = Field(SEMANTICKITTI.free, ge=0, description="Class that means free space; null: the last one.")
    grid: VoxelGrid = Field(SEMANTICKITTI_GRID, description="Output voxel grid, ego frame.")
    learned: bool = Field(
        True, description="Complete the cells by a U-Net; false: a cell is occupied where depth lies, as a baseline."
    )
    width: int = Field(48, ge=8, description="Channels of the U-Net at its finest resolution.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Least probability of a voxel that is called occupied.")

    @property
    def reads_depth(self) -> bool:
        """Whether batches must hold depth."""
        return True


class Proposer(nn.Module):
    """Logits of being occupied of all voxels of a grid, from cells of twice their edge."""

    def __init__(self, grid: VoxelGrid, width: int) -> None:
        """An axis with an odd number of voxels is read voxel by voxel."""
        super().__init__()
        self.grid = grid
        x, y, z = (1 if voxels % 2 else 2 for voxels in grid.shape)
        self.parts = (x, y, z)
        self.cells = (grid.shape[0] // x, grid.shape[1] // y, grid.shape[2] // z)
        self.unet = UNet(self.cells[2], width, x * y * grid.shape[2])

    def forward(self, occupied: Bool[Tensor, "B x y z"]) -> Float[Tensor, "B X Y Z"]:
        """Logits of the voxels."""
        plane = self.unet(occupied.to(self.unet.into.weight.dtype))
        x, y, _ = self.parts
        parts = plane.unflatten(3, (x, y, self.grid.shape[2]))  # (B, cell x, cell y, part x, part y, Z)
        return parts.permute(0, 1, 3, 2, 4, 5).reshape(len(plane), *self.grid.shape)

    @torch.no_grad()
    def propose(self, batch: Batch, shape: tuple[int, int, int], threshold: float) -> Bool[Tensor, "B h w z"]:
        """Queries with a voxel that is probably occupied; ``shape`` divides the grid."""
        occupied = self(depth_cells(batch, self.grid, self.cells)).sigmoid() > threshold
        x, y, z = (voxels // cells for voxels, cells in zip(self.grid.shape, shape, strict=True))
        h, w, d = shape
        return occupied.view(-1, h, x, w, y, d, z).any(6).any(4).any(2)


class ProposalNetwork(Network):
    """Occupied or not, as class logits: occupied voxels have the classes in the shares of the labels.

    log p(free) = log sigma(-o) and log p(c) = log sigma(o) + log q(c), with one learned distribution q of the classes
    for all voxels, so that the losses that all networks share apply. Predictions call a voxel occupied by o alone, and
    give it the most frequent class.
    """

    Config: ClassVar[type[NetworkConfig]] = ProposalsConfig
    config: ProposalsConfig

    def __init__(self, config: ProposalsConfig) -> None:
        """Random weights."""
        super().__init__()
        self.config = config
        self.proposer = Proposer(config.grid, config.width) if config.learned else None
        self.shares = nn.Parameter(torch.zeros(config.num_classes - 1))

    def forward(self, batch: Batch, voxels: Int64[Tensor, " n"] | None = None) -> NetworkOutput:
        """Logits of one view.

        Raises:
            DataError: the batch holds no depth.
        """
        occupied = self._occupied(batch).flatten()
        if voxels is None:
            voxels = torch.arange(len(occupied), device=occupied.device)
        chosen = occupied.index_select(0, voxels)
        classes = functional.logsigmoid(chosen)[:, None] + functional.log_softmax(self.shares, dim=0)
        free = functional.logsigmoid(-chosen)[:, None]
        before, behind = classes.split([self.config.free_class, len(self.shares) - self.config.free_class], dim=1)
        return NetworkOutput(torch.cat([before, free, behind], dim=1)[None], voxels)

    def _classify(self, batch: Batch) -> UInt8[Tensor, " n"]:
        """The most frequent class where a voxel is occupied, free elsewhere."""
        frequent = int(self.shares.argmax())
        frequent += frequent >= self.config.free_class
        occupied = self._occupied(batch).flatten().sigmoid() > self.config.threshold
        return torch.where(occupied, frequent, self.config.free_class).to(torch.uint8)

    def _occupied(self, batch: Batch) -> Float[Tensor, "B X Y Z"]:
        if self.proposer is not None:
            logits: Tensor = self.proposer(depth_cells(batch, self.config.grid, self.proposer.cells))
            return logits
        cells = depth_cells(batch, self.config.grid, self.config.grid.shape)
        return torch.where(cells, _SURE, -_SURE)
