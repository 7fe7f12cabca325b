"""A generated driving world in nuScenes or SemanticKITTI format, with exact occupancy and pixels: the test bench."""

from pipelines.synth.config import KittiConfig as KittiConfig
from pipelines.synth.config import SynthConfig as SynthConfig
from pipelines.synth.config import SynthSummary as SynthSummary
from pipelines.synth.generate import generate_world as generate_world
from pipelines.synth.kitti import sequence_name as sequence_name
