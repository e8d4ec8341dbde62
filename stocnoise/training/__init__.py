"""Algorithm 1: fine-tuning a student against attacks."""

from stocnoise.training.best import Best
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.eps import EpsSchedule
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.guard import Guard
from stocnoise.training.history import Epoch, History
from stocnoise.training.learn2perturb import Learn2Perturb
from stocnoise.training.objectives import Step, Trades
from stocnoise.training.optim import parameter_groups
from stocnoise.training.perturbation import AWP
from stocnoise.training.run import finetune

__all__ = [
    "AWP",
    "Best",
    "Callback",
    "Epoch",
    "EpsSchedule",
    "GammaSchedule",
    "Guard",
    "History",
    "Learn2Perturb",
    "Run",
    "Step",
    "Trades",
    "finetune",
    "parameter_groups",
]
