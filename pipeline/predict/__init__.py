"""Predict masks or class probabilities of images at their own size."""

from pipeline.predict.modes import shift_and_stitch, slide_window
from pipeline.predict.prediction import Prediction, summarise
from pipeline.predict.predictor import Predictor

__all__ = ["Prediction", "Predictor", "shift_and_stitch", "slide_window", "summarise"]
