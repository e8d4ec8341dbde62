"""Measuring robustness so that the figures can be believed."""

from stocnoise.evaluation.plot import plot_asr
from stocnoise.evaluation.report import Report
from stocnoise.evaluation.runner import evaluate
from stocnoise.evaluation.strongest import Budget, Strongest
from stocnoise.predictors import Averaged, Predictor, Voting

__all__ = ["Averaged", "Budget", "Predictor", "Report", "Strongest", "Voting", "evaluate", "plot_asr"]
