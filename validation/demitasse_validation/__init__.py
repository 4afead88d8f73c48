"""Proves, layer by layer, that an artifact computes what its source computed."""

from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random
from demitasse_validation.prediction import Prediction, predict
from demitasse_validation.report import Report
from demitasse_validation.tolerances import Tolerances

__all__ = ["Prediction", "Random", "Report", "Tolerances", "compare", "predict"]
