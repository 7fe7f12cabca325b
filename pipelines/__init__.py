"""Make data: raw recordings become records, geometry, labels, masks and shards."""
