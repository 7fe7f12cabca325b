"""Pictures of samples: camera images with pseudo masks, occupancy from above and in perspective."""

from protoocc.view.png import write_png
from protoocc.view.sample import SampleView, render_sample, sample_title

__all__ = ["SampleView", "render_sample", "sample_title", "write_png"]
