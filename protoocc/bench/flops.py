"""Two ways to count the work of the view transformation: the paper's own and the true one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from protoocc.model import QueryNetwork
from protoocc.model.projection import HitQueries


@dataclass
class _Rows:
    """Rows that went through one linear layer."""

    layer: nn.Linear
    rows: int = 0

    def add(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Forward hook."""
        self.rows += arguments[0].numel() // arguments[0].shape[-1]


def parameters(model: QueryNetwork) -> int:
    """Parameters of the view transformation as Table 3 counts them: encoder, temporal fusion and the query table.

    The positional embedding and the two scalars of H stand outside, as the published figures show.
    """
    parts = [p for name, p in model.named_parameters() if _is_counted(name)]
    return sum(parameter.numel() for parameter in parts)


def _is_counted(name: str) -> bool:
    parts = ("encoder.", "temporal_fusion.", "depth_head.", "voxel_queries.table")
    return name.startswith(parts) and not name.startswith("encoder.pixel_features.")


@torch.no_grad()
def paper_flops(model: QueryNetwork, features: list[Tensor], hits: HitQueries, samples: int = 1) -> float:
    """The view transformation in the paper's counting: twice the products of the encoder's linear layers.

    This rule gives the published 330, 1310 and 378 GFLOPs: hit queries are padded to the camera that hits most, and
    self attention projects both of its queues, the frame before and the present one. Sampling, convolutions, the
    products of prototypes with queries, softmax and norms are not counted.

    Args:
        model: any of the presets.
        features: image features of one frame.
        hits: hit queries of its cameras.
        samples: B.
    """
    with _counted_rows(model.encoder) as layers:
        earlier = model.voxel_queries.table.expand(samples, -1, -1, -1, -1)
        model.transform_view(features, hits, samples, earlier)
    found, padded = sum(hits.counts), max(hits.counts) * len(hits.counts)
    total = 0.0
    for rows in layers:
        counted = padded if rows.rows == found else rows.rows
        total += 2.0 * counted * rows.layer.in_features * rows.layer.out_features
    return total


@contextmanager
def _counted_rows(module: nn.Module) -> Iterator[list[_Rows]]:
    layers = [_Rows(layer) for layer in module.modules() if isinstance(layer, nn.Linear)]
    handles = [rows.layer.register_forward_pre_hook(rows.add) for rows in layers]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def true_flops(model: QueryNetwork, features: list[Tensor], hits: HitQueries, past: list[Tensor]) -> float:
    """What torch's flop counter finds in one run: all matrix products and convolutions, nothing padded."""
    with FlopCounterMode(display=False) as counter:
        view_transformation(model, features, hits, past)
    return float(counter.get_total_flops())


@torch.no_grad()
def view_transformation(model: QueryNetwork, features: list[Tensor], hits: HitQueries, past: list[Tensor]) -> Tensor:
    """One frame through clustering, encoder and temporal fusion, as at test time, when earlier frames are kept.

    Args:
        model: any of the presets.
        features: image features of the frame.
        hits: hit queries of its cameras.
        past: encoded queries of earlier frames, in the present ego frame.
    """
    recurrent = past[0] if past and model.temporal_fusion is None else None
    queries, _ = model.transform_view(features, hits, 1, recurrent)
    return queries if model.temporal_fusion is None else model.temporal_fusion([queries, *past])
