"""The graph that is exported: a network with tensors for inputs, whose hit queries are constants or found by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.model import ProtoOcc
from protoocc.model.backbone import padded_size
from protoocc.model.image_network import ImageNetwork
from protoocc.model.projection import OUTSIDE, HitQueries, is_hit, project_points
from protoocc.network import Network

PRESENT: Final = ("images", "image_from_camera", "camera_from_ego")
PAST: Final = ("past_images", "past_image_from_camera", "past_camera_from_ego", "past_from_ego")
DEPTH: Final = ("input_depth_m",)
MATRICES: Final = ("image_from_camera", "camera_from_ego", "past_image_from_camera", "past_camera_from_ego")


class ExportedNetwork(nn.Module):
    """A network for batches of one that takes tensors, in the order of `inputs`.

    With a fixed calibration, earlier frames are taken with that of the present one.
    """

    def __init__(self, network: Network, sample: Batch, *, has_calibration: bool) -> None:
        """Keeps the calibration of the sample.

        Args:
            network: in evaluation mode.
            sample: a batch of one.
            has_calibration: the calibration is an input of the graph.
        """
        super().__init__()
        self.network = network
        config = network.config
        fields = [*PRESENT, *(PAST if config.frames > 1 else ()), *(DEPTH if config.reads_depth else ())]
        self.names = [name for name in fields if has_calibration or name not in MATRICES]
        self.constants = {} if has_calibration else _one_calibration(sample, network.config.frames - 1)
        self._constant: dict[str, HitQueries] = {}
        if not has_calibration and isinstance(network, ImageNetwork):
            height, width = sample.images.shape[-2:]
            calibration = (height, width), sample.image_from_camera, sample.camera_from_ego
            self._constant["find_hits"] = network.find_hits(*calibration)
            if isinstance(network, ProtoOcc) and network.detail is not None:
                every = torch.arange(math.prod(network.config.grid.shape))
                self._constant["voxel_hits"] = network.voxel_hits(every, *calibration)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Inputs of the graph by name, in their order."""
        return {name: getattr(batch, name) for name in self.names}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (X, Y, Z, L) and the most probable class of each voxel (X, Y, Z)."""
        fields: dict[str, Any] = {**self.constants, **dict(zip(self.names, tensors, strict=True))}
        batch, network = Batch(tokens=["exported"], **fields), self.network
        if isinstance(network, ProtoOcc):  # without the pixel features of the mask loss
            logits = network.decode(batch, network.encode_scene(batch))[0]
        else:
            logits = network(batch).logits[0]
        volume = logits.view(*network.config.grid.shape, -1)
        return volume, volume.argmax(-1).to(torch.uint8)

    @contextmanager
    def own_hits(self) -> Iterator[None]:
        """While this is active, the network gets its hit queries in a way that a graph can hold."""
        network = self.network
        if not isinstance(network, ImageNetwork):
            yield
            return

        def find(points: Tensor, size: tuple[int, int], matrices: Tensor, poses: Tensor) -> HitQueries:
            return graph_hits(points, poses, matrices, size)

        replaced: dict[str, Any] = {"hits_of": find, "voxels_at_once": math.prod(network.config.grid.shape)}
        replaced |= {name: partial(_always, hits) for name, hits in self._constant.items()}
        for name, function in replaced.items():
            setattr(network, name, function)
        try:
            yield
        finally:
            for name in replaced:
                delattr(network, name)


def _always(hits: HitQueries, *_: object) -> HitQueries:
    """The same hits, whatever is asked for."""
    return hits


def _one_calibration(sample: Batch, earlier: int) -> dict[str, Tensor]:
    """Matrices of the present frame, for all frames."""
    constants = {name: getattr(sample, name) for name in ("image_from_camera", "camera_from_ego")}
    if earlier:
        past = {f"past_{name}": value[:, None].repeat(1, earlier, 1, 1, 1) for name, value in constants.items()}
        constants |= past
    return constants


def graph_hits(
    anchors_ego: Float[Tensor, "q anchors 3"],
    camera_from_ego: Float[Tensor, "1 V 4 4"],
    image_from_camera: Float[Tensor, "1 V 3 3"],
    image_size: tuple[int, int],
) -> HitQueries:
    """`protoocc.model.projection.find_hits` for a batch of one, as a graph whose number of hits is free.

    Camera by camera, because the exporter has to know where the rows of each one end.
    """
    queries, anchors = anchors_ego.shape[:2]
    uv_px, depth_m = project_points(anchors_ego.flatten(0, 1), camera_from_ego[0], image_from_camera[0])
    visible = is_hit(uv_px, depth_m, image_size).unflatten(-1, (queries, anchors))
    height, width = padded_size(*image_size)
    size = torch.tensor([width, height], dtype=uv_px.dtype)
    reference = torch.where(visible[..., None], uv_px.unflatten(1, (queries, anchors)) / size, OUTSIDE)
    depth_m = depth_m.unflatten(1, (queries, anchors))
    hits = []
    for seen in visible.any(-1).unbind(0):
        rows = seen.nonzero()[:, 0]
        torch._check(rows.shape[0] > 0)
        hits.append(rows)
    query = torch.cat(hits)
    return HitQueries(query, query, _rows(reference, hits), _rows(depth_m, hits), [rows.shape[0] for rows in hits])


def _rows(values: Shaped[Tensor, "V q ..."], hits: list[Int64[Tensor, " _"]]) -> Shaped[Tensor, "n ..."]:
    """Some rows of each camera, camera after camera."""
    return torch.cat([camera.index_select(0, rows) for camera, rows in zip(values, hits, strict=True)])
