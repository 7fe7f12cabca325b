"""Networks whose image cells are grouped into prototypes: section 3.2.1 of the paper, up to the queries."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from protoocc.batch import Batch
from protoocc.model.backbone import padded_size
from protoocc.model.encoder import MappingTrace, read_back
from protoocc.model.image_network import ImageNetwork
from protoocc.model.parts_config import PartsConfig
from protoocc.model.pixel_features import PixelFeatures
from protoocc.model.projection import HitQueries
from protoocc.model.prototypes import cluster, normalised, placed
from protoocc.network import ImagePrototypes


class GroupingNetwork(ImageNetwork):
    """Image features, and prototypes of the cells of one of their scales."""

    config: PartsConfig

    def clustered(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> Float[Tensor, "cameras d _ _"]:
        """The map out of all scales whose cells are grouped into prototypes: normalised features with their place."""
        return placed(normalised_cells(features[self._clustering_scale]))

    def clustering_grid(self, features: Sequence[Float[Tensor, "cameras d _ _"]]) -> tuple[int, int]:
        """(h', w') of that map."""
        height, width = features[self._clustering_scale].shape[-2:]
        return height, width

    @property
    def _clustering_scale(self) -> int:
        return self.config.strides.index(self.config.clustering_stride)

    def read_cells(
        self,
        batch: Batch,
        pixel_features: PixelFeatures | None,
        trace: MappingTrace | None,
        hits: HitQueries,
        grid: tuple[int, int],
    ) -> tuple[Float[Tensor, "B V h w d"], Bool[Tensor, "B V h w"]] | tuple[None, None]:
        """X of equation (2) and whether a query looked at each cell, for the mask loss; None without it.

        Args:
            batch: whose cameras.
            pixel_features: equation (2); None without prototype optimisation.
            trace: of the last layer; None without prototype mapping.
            hits: of the queries that looked.
            grid: from `clustering_grid`.
        """
        if pixel_features is None or trace is None:
            return None, None
        cells, seen = read_back(pixel_features, trace, hits, grid)
        cameras = batch.images.shape[:2]
        return cells.view(*cameras, *grid, -1), seen.view(*cameras, *grid)

    def group(self, clustered: Float[Tensor, "cameras d h w"]) -> Float[Tensor, "cameras M d"]:
        """Prototypes of a map of image features."""
        return cluster(clustered, self.config.prototype_cell, self.config.clustering_iterations)

    def image_prototypes(self, batch: Batch) -> ImagePrototypes | None:
        """Cells and prototypes of the clustering map, cells of the padding left out; None without prototype mapping."""
        if not self.config.prototype_mapping:
            return None
        images = batch.images[0]
        features = self.clustered(self.image_features(images))
        height, width = images.shape[-2:]
        rows, columns = padded_size(height, width)
        inside = (-(-features.shape[-2] * height // rows), -(-features.shape[-1] * width // columns))
        return ImagePrototypes(features[:, :, : inside[0], : inside[1]], self.group(features))


def normalised_cells(features: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
    """Each cell less its mean over the channels, over its deviation."""
    return normalised(features.movedim(1, -1)).movedim(-1, 1)
