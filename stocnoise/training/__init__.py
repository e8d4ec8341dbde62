"""Algorithm 1: fine-tuning a student against attacks."""

from stocnoise.training.best import Best
from stocnoise.training.callbacks import Callback, Run
from stocnoise.training.eps import EpsSchedule
from stocnoise.training.gamma import GammaSchedule
from stocnoise.training.guard import Guard
from stocnoise.training.guided import Guided
from stocnoise.training.history import Epoch, History
from stocnoise.training.learn2perturb import Learn2Perturb
from stocnoise.training.mart import MART
from stocnoise.training.mean_of_draws import Averaged
from stocnoise.training.optim import parameter_groups
from stocnoise.training.perturbation import AWP
from stocnoise.training.run import finetune
from stocnoise.training.step import Step
from stocnoise.training.trades import Trades

__all__ = [
    "AWP",
    "MART",
    "Averaged",
    "Best",
    "Callback",
    "Epoch",
    "EpsSchedule",
    "GammaSchedule",
    "Guard",
    "Guided",
    "History",
    "Learn2Perturb",
    "Run",
    "Step",
    "Trades",
    "finetune",
    "parameter_groups",
]
