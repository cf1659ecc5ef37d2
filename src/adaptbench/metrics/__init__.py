"""Ways to judge answers, one idea a file. Importing the package fills the registry.

The package needs numpy only (BLEU and chrF: sacrebleu, when they are used), so that the analysis can import it.
"""

from importlib import import_module
from pkgutil import iter_modules

from adaptbench.metrics.base import METRICS, Metric, get, metrics_for, register, total

# The first metric of a kind of answer is its default, whatever files are added: these come first, in this order.
_FIRST = ("accuracy", "f1", "matthews", "correlation", "squad", "bleu", "chrf")
for _name in (*_FIRST, *(module.name for module in iter_modules(__path__))):
    import_module(f"{__name__}.{_name}")

__all__ = ["METRICS", "Metric", "get", "metrics_for", "register", "total"]
