"""Make ``tests/golden/run_dir`` with the checkout that can be imported: ``python -m tests.golden.make_run_dir``.

It holds two sweeps as the command leaves them, without their logs and locks: two cells of a CNN, and one of
``recipe=prune_and_retrain``.  Names of the machine and of folders are replaced.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from tests.golden import cases, collect, inside

RUN_DIR = Path(__file__).parent / "run_dir"
SMALL = ("model.c1=2", "model.c3=2", "seed=0")
SWEEPS = {
    "plain": ["sweep.name=plain", "model.c2=3,2", *SMALL, *cases.TINY],
    "pruned": [
        "sweep.name=pruned",
        "recipe=prune_and_retrain",
        "pruning=cosine",
        "pruning.ratio=0.5",
        "model.c2=4",
        *SMALL,
        *cases.TINY,
    ],
}
"""What is run, by the sweep's name."""

LEFT_OUT = ("log.txt", ".lock", "multirun.yaml")


def main() -> int:
    """Run the sweeps, copy them, and keep the scores that the networks give."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        with collect.working(folder):
            for words in SWEEPS.values():
                code, out, err = collect.command([*words, *cases.ALWAYS, "-m"])
                assert code == 0, out + err
        shutil.rmtree(RUN_DIR, ignore_errors=True)
        for sweep in SWEEPS:
            shutil.copytree(folder / "multirun" / sweep, RUN_DIR / sweep, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for path in RUN_DIR.rglob("*"):
            if path.suffix in (".json", ".yaml"):
                path.write_text(anonymous(path.read_text(), folder))
    scores = {path.relative_to(RUN_DIR).as_posix(): scores_of(path) for path in cells()}
    (RUN_DIR / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    return 0


def anonymous(text: str, folder: Path) -> str:
    """A file's text without the names of folders and of the machine."""
    text = text.replace(str(folder), "/data")
    if not text.startswith("{"):
        return text
    value = json.loads(text)
    for owner in (value, value.get("launch", {})):
        for key in ("host", "boot"):
            if isinstance(owner, dict) and key in owner:
                owner[key] = "machine"
    return json.dumps(value, indent=1) + "\n"


def cells() -> list[Path]:
    """The directories of all cells."""
    return sorted(path.parent for path in RUN_DIR.glob("*/*/config.yaml"))


def images() -> torch.Tensor:
    """Three images that every network here takes, from no generator whose numbers a version may change."""
    return torch.sin(torch.arange(3 * 28 * 28, dtype=torch.float64)).float().reshape(3, 1, 28, 28)


def scores_of(directory: Path) -> list[list[float]]:
    """What a cell's network says of them."""
    with torch.inference_mode():
        found: list[list[float]] = inside.load_run(directory).module.model(images()).double().tolist()
    return found


if __name__ == "__main__":
    sys.exit(main())
