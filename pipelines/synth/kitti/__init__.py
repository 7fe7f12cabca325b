"""Generated worlds in SemanticKITTI format."""

from pipelines.synth.kitti.frame import make_keyframe as make_keyframe
from pipelines.synth.kitti.sequence import VERSION as VERSION
from pipelines.synth.kitti.sequence import sequence_name as sequence_name
from pipelines.synth.kitti.sequence import write_sequences as write_sequences
