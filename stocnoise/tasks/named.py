"""Tasks by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from stocnoise.tasks.binary import BINARY
from stocnoise.tasks.multiclass import MULTICLASS
from stocnoise.tasks.multilabel import MULTILABEL
from stocnoise.tasks.segmentation import SEGMENTATION
from stocnoise.tasks.task import OutputReader, Task, check_output

TaskName = Literal["multiclass", "binary", "multilabel", "segmentation"]
TaskLike = TaskName | Task

_NAMED = {task.name: task for task in (MULTICLASS, BINARY, MULTILABEL, SEGMENTATION)}


def as_task(task: TaskLike, output: OutputReader | None = None) -> Task:
    """The task of that name, or the given one; `output` says what of the model's answer it is about.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> stocnoise.tasks.as_task("binary").name
        'binary'
    """
    found = _NAMED.get(task) if isinstance(task, str) else task
    if not isinstance(found, Task):
        raise ValueError(f"task must be one of {', '.join(_NAMED)}, or a stocnoise.Task(loss, wrong), not {task!r}")
    check_output(output)
    return found if output is None else replace(found, output=output)
