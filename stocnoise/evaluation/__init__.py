"""Measuring robustness so that the figures can be believed."""

from stocnoise.evaluation.plot import plot_asr
from stocnoise.evaluation.report import Report
from stocnoise.evaluation.runner import evaluate

__all__ = ["Report", "evaluate", "plot_asr"]
