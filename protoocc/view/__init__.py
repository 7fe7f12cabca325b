"""Pictures of samples: camera images with pseudo masks, occupancy from above and in perspective."""

from protoocc.view.png import write_png
from protoocc.view.prediction import PredictionView, render_prediction
from protoocc.view.sample import SampleView, render_sample, sample_title

__all__ = ["PredictionView", "SampleView", "render_prediction", "render_sample", "sample_title", "write_png"]
