"""Public arguments without a wrong value, each with the reason. Flags (a default of True or False) need no entry."""

from __future__ import annotations

_MADE = "a record that the package makes; nobody calls its constructor"
_CALLED = "called by finetune, for a user to override"
_RUN = "called by the attack itself, which has checked what it passes on; for a user to override"
_LOSS = "called by attacks at every step, on what the task has checked"
_PASSED = "passed on to the model as it is"

UNCHECKED = {
    "Certificate.record": _MADE,
    "Prediction.*": _MADE,
    "Report.model": _MADE,
    "Report.clean": _MADE,
    "Report.entries": _MADE,
    "Report.warnings": _MADE,
    "Report.settings": _MADE,
    "Report.examples": _MADE,
    "Site.*": _MADE,
    "Summary.*": _MADE,
    "MixtureFit.*": _MADE,
    "training.Best.epoch": _MADE,
    "training.Best.robust_accuracy": _MADE,
    "training.Best.accuracy": _MADE,
    "training.Best._kept": _MADE,
    "training.Epoch.*": _MADE,
    "training.Run.*": _MADE,
    "Callback.*": _CALLED,
    "Averaged.__call__.step": _CALLED,
    "Learn2Perturb.__call__.step": _CALLED,
    "Guided.check.*": "called by finetune before its first step, on what it has checked",
    "History.keep_best.model": "called by finetune after each epoch",
    "Guard.batch": "what finetune's `batch=` reads; its rows try it",
    "PGD.shortened.share": "called by finetune after a collapse, with a power of one half",
    "attacks.BallAttack.scaled.share": "called by EpsSchedule, which has checked it",
    "PGD.single_step.settings": "the arguments of PGD, whose rows are tried",
    "PGD.fgsm_rs.settings": "the arguments of PGD, whose rows are tried",
    "Blend.mixed.*": "called by a mixture, on logits that it has checked",
    "Blend.settled.*": "called by a mixture, on logits that it has checked",
    "Mixture.forward.*": _PASSED,
    "MarginBound.forward.*": _PASSED,
    "evaluation.Predictor.*": "the constructor of torch.nn.Module, which takes none",
    "Attack.run.*": _RUN,
    "Attack.check_task.task": _RUN,
    "Attack.with_defaults.settings": "names that an attack has no use for are left out on purpose",
    "attacks.losses.*": _LOSS,
    "StochasticActivation.for_activation.activation": "called by convert, for a user to override",
    "Task.judge.*": "called on outputs and targets that `read` and `read_target` have let pass",
    "Task.right.*": "called on outputs and targets that `read` and `read_target` have let pass",
    "evaluation.Strongest.run.*": "called by evaluate",
    "evaluation.Strongest.described.against": "called by evaluate",
    "InputNoise.forward.args": _PASSED,
    "InputNoise.forward.kwargs": _PASSED,
    "attacks.Normalized.forward.args": _PASSED,
    "attacks.Normalized.forward.kwargs": _PASSED,
    "evaluation.Averaged.forward.*": _PASSED,
    "StocFixed.settings": "the arguments of StochasticActivation, whose rows are tried",
    "StocL2P.settings": "the arguments of StochasticActivation, whose rows are tried",
    "hub.load.settings": "the arguments of stocnoise.load, which checks them",
    "hub.push.about": "the arguments of hub.save, which checks them",
    "hub.push.private": "a flag",
}
