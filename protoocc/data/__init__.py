"""Shards to batches: the checked index, decoded keyframes and the order in which training sees them."""

from protoocc.data.dataset import WORKERS, ShardDataset, collate, make_loader
from protoocc.data.decode import Keyframe
from protoocc.data.loader import reader_deaths
from protoocc.data.sampler import EpochSampler
from protoocc.shards import ShardSet, open_shards, read_shard_manifest, verify_shard
from schemas.shards import DatasetInfo, Manifest, SampleEntry

__all__ = [
    "WORKERS",
    "DatasetInfo",
    "EpochSampler",
    "Keyframe",
    "Manifest",
    "SampleEntry",
    "ShardDataset",
    "ShardSet",
    "collate",
    "make_loader",
    "open_shards",
    "read_shard_manifest",
    "reader_deaths",
    "verify_shard",
]
