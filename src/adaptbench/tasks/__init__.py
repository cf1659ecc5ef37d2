"""Kinds of tasks, one file each. Importing the package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from adaptbench.tasks.base import TASKS, Answer, TaskType, task_type

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "Answer", "TaskType", "task_type"]
