"""Whether data fit into the memory, asked before they are read."""

import os
from pathlib import Path

from deep_learning_recipes import UsageError

COPIES = 2.5
"""of the numbers that a training holds at once: read, split, and on the device"""


def require(path: Path, count: int, bytes_each: float, what: str) -> None:
    """Raises UsageError where `count` examples of so many bytes do not fit."""
    free = free_bytes()
    needed = COPIES * count * bytes_each
    if free is None or needed <= free:
        return
    fitting = int(free / (COPIES * bytes_each))
    rounded = max(1, int(float(f"{fitting:.1g}")))
    raise UsageError(
        f"{path}: {count:,} {what} take {gigabytes(needed)} to train on, and "
        f"{gigabytes(free)} are free; --max-examples {rounded} takes that many"
    )


def free_bytes() -> int | None:
    """Of the memory, as far as the system tells."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
