"""Measuring robustness so that the figures can be believed."""

from stocnoise.evaluation.plot import plot_asr
from stocnoise.evaluation.predictors import Averaged, Voting
from stocnoise.evaluation.report import Report
from stocnoise.evaluation.runner import evaluate
from stocnoise.evaluation.strongest import Budget, Strongest

__all__ = ["Averaged", "Budget", "Report", "Strongest", "Voting", "evaluate", "plot_asr"]
