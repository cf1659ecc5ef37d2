"""Memory as a machine sees it: the allocator's peak on an accelerator, a process's peak on a CPU.

The tensor-level count of `memory` is the same everywhere; these add what an allocator rounds up, workspaces and, on a
CPU, the libraries. A process's peak never falls, so each measurement wants a process of its own (experiments.memory).
"""

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def accelerator_peak(step: Callable[[], object], device: torch.device) -> int:
    """Bytes allocated at the peak of a step, tensors that were there before included."""
    torch.accelerator.synchronize(device)
    torch.accelerator.reset_peak_memory_stats(device)
    step()
    torch.accelerator.synchronize(device)
    return torch.accelerator.max_memory_allocated(device)


def process_peak() -> int:
    """Bytes of resident memory at this process's peak so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Bytes of resident memory now; the peak so far where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else process_peak()
