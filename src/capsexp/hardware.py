"""The resources of this machine: cores, memory, GPUs.  Nothing is imported that would touch a GPU."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
MEMORY_PARTS = Path("/sys/fs/cgroup/memory.stat")

WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For the environment of a process before it loads torch: threads that wait for others sleep.

By OpenMP's default they spin on cores that other processes need: beside other work, steps with two threads then take
many times as long.
"""


def cores() -> int:
    """CPU cores that this process may use, by its affinity and its container's quota; at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(QUOTA).partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, -(-int(quota) // int(period)))
    return max(1, allowed)


def available_memory() -> int | None:
    """Bytes of main memory that are free for new processes; None if the system does not report it."""
    lines = [line.split() for line in _read(Path("/proc/meminfo")).splitlines()]
    free = [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    limit, used = _read(MEMORY_LIMIT).strip(), _read(MEMORY_USED).strip()
    if limit.isdigit() and used.isdigit():
        free.append(max(0, int(limit) - max(0, int(used) - _cached_files())))
    return min(free) if free else None


def _cached_files() -> int:
    """Bytes of a container's used memory that hold cached, inactive files; the system frees them on demand."""
    lines = [line.split() for line in _read(MEMORY_PARTS).splitlines()]
    return sum(int(words[1]) for words in lines if words[:1] == ["inactive_file"])


DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg", "/proc/driver/nvidia", "/dev/kfd")))
"""Files of which a machine with a driver for GPUs has one."""

GPU_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
"""The number of a GPU, or its identifier."""


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; none on a machine without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        # CUDA hides what follows a name that names no GPU, such as -1 or SLURM's NoDevFiles.
        known = list(itertools.takewhile(GPU_NAME.fullmatch, names))
        return known if known and _has_driver() else []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []  # no driver, no GPU
    return [line.strip() for line in listing.stdout.splitlines() if line.strip().isdigit()]


def _has_driver() -> bool:
    """True if there may be a GPU: a login script may set CUDA_VISIBLE_DEVICES on machines without any."""
    return shutil.which("nvidia-smi") is not None or any(path.exists() for path in DRIVERS)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
