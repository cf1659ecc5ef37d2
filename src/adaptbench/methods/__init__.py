"""Ways to adapt a model, one file each. Importing the package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from adaptbench.methods.base import METHODS, Adaptation, Method

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Adaptation", "Method"]
