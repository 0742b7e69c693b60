"""Images -> masks or class probabilities, at their own size."""

from pipeline.predict.modes import shift_and_stitch, slide_window
from pipeline.predict.predictor import Predictor, normalise
from pipeline.predict.summary import Prediction, summarise

__all__ = ["Prediction", "Predictor", "normalise", "shift_and_stitch", "slide_window", "summarise"]
