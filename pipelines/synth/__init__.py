"""A generated driving world in nuScenes format, with exact occupancy and exact pixels: the project's test bench."""

from pipelines.synth.config import SynthConfig as SynthConfig
from pipelines.synth.config import SynthSummary as SynthSummary
from pipelines.synth.generate import generate_world as generate_world
