"""The provenance of a sweep: versions, machine, and the state of the code at launch."""

import platform
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from capsexp import records

PACKAGES = (
    "capsexp",
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scikit-learn",
    "wandb",
)


def provenance(code: Path, configs: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The launch record of a plan.

    Args:
        code: a file of ours; ``git`` is set if it belongs to a repository.
        configs: the cells' configs, whose modules of one's own ``code`` lists, with their digests.
    """
    own = records.own_code(list(configs))
    return {
        "time": time.time(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "git": _git(code, records.own_files(own)),
        **({"code": own} if own else {}),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(code: Path, files: Sequence[Path]) -> dict[str, Any] | None:
    folder = code.parent
    commit = _ask(folder, "rev-parse", "HEAD")
    if commit is None or _ask(folder, "ls-files", "--error-unmatch", code.name) is None:
        return None  # an installed package may be inside an unrelated repository
    changed = _ask(folder, "status", "--porcelain", "--untracked-files=no")
    root = Path(_ask(folder, "rev-parse", "--show-toplevel") or folder)
    used = [str(path) for path in files if path.is_relative_to(root)]
    untracked = _ask(root, "ls-files", "--others", "--", *used) if used else None
    return {
        "commit": commit,
        "branch": _ask(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "changed": [line[3:] for line in (changed or "").splitlines()] + (untracked or "").splitlines(),
    }


def _ask(folder: Path, *words: str) -> str | None:
    try:
        output = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository
    return output.stdout.rstrip()
