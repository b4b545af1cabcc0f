"""How tests run side by side."""

from __future__ import annotations

import os

MOST = 8  # each process holds torch in memory

# Two processes with two threads each on two cores are many times slower than with one each. Said before torch is imported, and
# inherited by what tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use: the plug-in's own count takes two hyper-threads for one."""
    return min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
