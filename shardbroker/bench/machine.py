"""What the figures depend on besides the load: machine, kernel, versions."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

import shardbroker


def machine() -> dict[str, Any]:
    """CPU, usable processors, kernel, memory, load average now."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.M) or re.search(r"^CPU part\s*: (.*)$", text, re.M)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of what does the measuring."""
    return {
        "shardbroker": shardbroker.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
