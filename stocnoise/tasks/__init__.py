"""What a model answers, and when an answer is wrong: one object for attacks, training, evaluation and prediction."""

from stocnoise.tasks.named import TaskLike, as_task
from stocnoise.tasks.segmentation import segmentation
from stocnoise.tasks.task import OutputReader, Task

__all__ = ["OutputReader", "Task", "TaskLike", "as_task", "segmentation"]
