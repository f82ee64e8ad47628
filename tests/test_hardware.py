"""What a machine has to give, on machines that are made up."""

import os
from pathlib import Path

import pytest

from capsexp import hardware

GB = 1_000_000_000


@pytest.fixture
def cores_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("cores_allowed")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
        ("200000\n", 8),
    ],
)
def test_cores_by_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(hardware, "QUOTA", tmp_path / "cpu.max")
    assert hardware.cores() == cores


def test_cores_where_no_affinity_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "QUOTA", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert hardware.cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert hardware.cores() == 1


PARTS = "anon 5\nfile 7\ninactive_file 600000000\nactive_file 9\n"
MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "parts", "free"),
    [
        (MEMINFO, "", "", "", 8_000_000 * 1024),
        (MEMINFO, "max\n", "5\n", PARTS, 8_000_000 * 1024),
        (MEMINFO, f"{4 * GB}\n", f"{GB}\n", "", 3 * GB),
        (MEMINFO, f"{4 * GB}\n", f"{GB}\n", PARTS, 3_600_000_000),
        (MEMINFO, f"{4 * GB}\n", "500000000\n", PARTS, 4 * GB),
        (MEMINFO, f"{4 * GB}\n", f"{5 * GB}\n", "", 0),
        (MEMINFO, f"{400 * GB}\n", f"{GB}\n", PARTS, 8_000_000 * 1024),
        (MEMINFO, f"{4 * GB}\n", "", PARTS, 8_000_000 * 1024),
        ("", f"{4 * GB}\n", f"{GB}\n", "", 3 * GB),
        ("MemTotal:       16000000 kB\n", "", "", "", None),
        ("", "", "", "", None),
    ],
)
def test_available_memory(
    monkeypatch: pytest.MonkeyPatch, meminfo: str, limit: str, used: str, parts: str, free: int | None
) -> None:
    files = {Path("/proc/meminfo"): meminfo, hardware.MEMORY_LIMIT: limit, hardware.MEMORY_USED: used}
    files[hardware.MEMORY_PARTS] = parts
    monkeypatch.setattr(hardware, "_read", files.__getitem__)
    assert hardware.available_memory() == free


def test_this_machine_has_something() -> None:
    assert hardware.cores() >= 1
    memory = hardware.available_memory()
    assert memory is None or memory > 0


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        (" ", []),
        ("0", ["0"]),
        ("0,1", ["0", "1"]),
        (" 2 , 0 ", ["2", "0"]),
        ("-1", []),
        ("0,-1,2", ["0"]),
        ("GPU-8932f937-d72c,GPU-15a1e1b5", ["GPU-8932f937-d72c", "GPU-15a1e1b5"]),
        ("MIG-GPU-1/2/0", ["MIG-GPU-1/2/0"]),
        ("NoDevFiles", []),
        ("1,NoDevFiles,0", ["1"]),
    ],
)
def test_gpus_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(hardware, "DRIVERS", (Path(__file__),))
    assert hardware.gpus() == names
    monkeypatch.setattr(hardware, "DRIVERS", (Path(__file__) / "none",))
    assert hardware.gpus() == [], "a machine without a driver"


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_that_the_driver_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; printf "0\\n1\\n 7 \\n"')
    assert hardware.gpus() == ["0", "1", "7"]
    assert (tmp_path / "asked").read_text() == "--query-gpu=index --format=csv,noheader\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.gpus() == ["1"], "the environment's word counts more"


@pytest.mark.parametrize("script", ["echo 0; exit 9", "echo No devices were found", "exit 0"])
def test_a_driver_that_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake_smi(tmp_path, monkeypatch, script)
    assert hardware.gpus() == []


def test_a_driver_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, "exec sleep 60")
    run = hardware.subprocess.run
    asked: list[float] = []

    def impatient(*arguments: object, timeout: float, **options: object) -> object:
        asked.append(timeout)
        return run(*arguments, timeout=0.2, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(hardware.subprocess, "run", impatient)
    assert hardware.gpus() == []
    assert 0 < asked[0] <= 60


def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.gpus() == []
