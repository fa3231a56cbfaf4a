"""Memory that is free here, the control group's limit included."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30


def free_memory() -> int | None:
    """Bytes that this process may still take, the control group's limit included; None unknown."""
    free = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max" and free is not None:
            used = int((group / "memory.current").read_text())
            free = min(free, int(limit) - used)
    except (OSError, ValueError):
        pass
    return free
