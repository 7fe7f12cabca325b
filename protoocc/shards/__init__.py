"""Sets of shards, here and elsewhere: checked manifests and indexes, members by position, transfer."""

from protoocc.shards.folder import ShardSet, open_shards, read_shard_manifest, verify_shard
from schemas.shard_checks import PACK_AGAIN

__all__ = ["PACK_AGAIN", "ShardSet", "open_shards", "read_shard_manifest", "verify_shard"]
