"""Memory of a CPU's tensors, kept for the next ones."""

import ctypes
import platform
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
NEVER, ALWAYS_HEAP = 2**31 - 1, 2**30


@cache
def keep_freed_memory() -> None:
    """Let freed memory stay with the process, where the C library is glibc.

    By default every tensor of more than 32 MB is new memory from the system, whose pages are zeroed one by one: a
    quarter of the time that evaluation takes (docs/log.md). What a process holds at its peak is the same.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(MMAP_THRESHOLD, ALWAYS_HEAP)
        libc.mallopt(TRIM_THRESHOLD, NEVER)
