"""Learn from shards: the ProtoOcc network, its losses, training, evaluation and pictures."""
