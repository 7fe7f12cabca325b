"""Measurements that compare a part with its limit or with how others do it, in one run."""
