"""Shards to batches: the checked index, decoded keyframes and the order in which training sees them."""

from protoocc.data.dataset import ShardDataset, collate, make_loader
from protoocc.data.sampler import EpochSampler
from protoocc.data.shards import DatasetInfo, SampleEntry, ShardSet, open_shards

__all__ = [
    "DatasetInfo",
    "EpochSampler",
    "SampleEntry",
    "ShardDataset",
    "ShardSet",
    "collate",
    "make_loader",
    "open_shards",
]
