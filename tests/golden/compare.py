"""Compare what two checkouts of capsexp compute, say and write; or keep what one does.

    python tests/golden/compare.py OLD NEW [--only plans,sweeps:cnn_prune]
    python tests/golden/compare.py OLD --write [--only ...]
    python tests/golden/compare.py --words OLD NEW [--only ...]

OLD and NEW are commits or paths of checkouts; with --words they may be two files of texts, too.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.golden import differences, names  # noqa: E402

KEPT = Path(__file__).parent / "kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 if all is equal, 1 if not."""
    given = parser().parse_args(arguments)
    if given.words and all(Path(side).is_file() for side in given.sides):
        return compare_words(*(Path(name) for name in given.sides))
    parts = chosen(given.only)
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        if given.write:
            (side,) = given.sides
            write(gathered(side, parts, Path(folder)))
            return 0
        old, new = (gathered(side, parts, Path(folder, str(place))) for place, side in enumerate(given.sides))
        found = [
            difference for part in parts for difference in differences.unlike(read(old, part), read(new, part), part)
        ]
    if given.words:
        found = [each for each in found if not differences.only_words(each.old, each.new)]
    for difference in found:
        sys.stdout.write(f"{difference}\n")
    sys.stdout.write(f"{len(found)} differences in {len(parts)} parts\n")
    return 1 if found else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python tests/golden/compare.py", description=__doc__.splitlines()[0])
    made.add_argument("sides", metavar="SIDE", nargs="+", help="a commit or the path of a checkout")
    made.add_argument(
        "--only", metavar="PART[,PART]", help=f"of {', '.join(names.parts())}; a name without : is all of it"
    )
    made.add_argument("--write", action="store_true", help="keep what the one SIDE gives")
    made.add_argument("--words", action="store_true", help="leave out what differs in its wording alone")
    return made


def chosen(only: str | None) -> list[str]:
    """The parts that are asked for, each report behind its sweep."""
    asked = only.split(",") if only else names.parts()
    unknown = [
        name for name in asked if not any(part in (name,) or part.startswith(f"{name}:") for part in names.parts())
    ]
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(names.parts())}")
    found = [part for part in names.parts() if part in asked or part.split(":")[0] in asked]
    needed = {part.replace("reports:", "sweeps:") for part in found}
    return [part for part in names.parts() if part in found or part in needed]


@contextlib.contextmanager
def checkout(side: str, folder: Path) -> Iterator[Path]:
    """The root of a checkout: the path itself, or a worktree of a commit that is removed afterwards."""
    if Path(side, "src", "capsexp").is_dir():
        yield Path(side).resolve()
        return
    tree = folder / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), side], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def gathered(side: str, parts: Sequence[str], folder: Path) -> Path:
    """The folder with what a checkout gives, a file a part; each sweep has a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with checkout(side, folder) as root:
        path = os.pathsep.join([str(root / "src"), str(ROOT)])
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        (folder / "at").mkdir(exist_ok=True)
        groups: dict[str, list[str]] = {}
        for part in parts:
            groups.setdefault(part.partition(":")[2] or part, []).append(part)
        for group in groups.values():
            sys.stderr.write(f"{side}: {', '.join(group)}\n")
            line = [sys.executable, "-m", "tests.golden.collect", str(folder), *group]
            subprocess.run(line, check=True, env=variables, cwd=folder / "at")
    return folder


def read(folder: Path, part: str) -> object:
    return json.loads((folder / names.file_of(part)).read_text())


def write(folder: Path) -> None:
    """Keep a gathering."""
    KEPT.mkdir(exist_ok=True)
    for path in folder.glob("*.json"):
        shutil.copyfile(path, KEPT / path.name)


def compare_words(old: Path, new: Path) -> int:
    """Tell whether every number, id and key of two files is equal though words differ."""
    texts = [path.read_text() for path in (old, new)]
    one, other = (
        json.loads(text) if path.suffix == ".json" else text for text, path in zip(texts, (old, new), strict=True)
    )
    differing = [each for each in differences.unlike(one, other) if not differences.only_words(each.old, each.new)]
    for each in differing:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write("only words differ\n" if not differing else f"{len(differing)} places differ in more than words\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
