"""What a killed process leaves is removed by the next command, and what a live one writes is not."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsexp import records
from capsexp.records import temporary

SOURCE = Path(records.__file__).parents[2]

WRITES = "records.replacing(Path(sys.argv[1]) / 'sweep.json')"
RESTORES = "records.temporary_folder(Path(sys.argv[1]), '.restore-')"
WORKS = "records.in_process_folder()"

HOLDS = """
import sys, tempfile
from pathlib import Path
from capsexp import records
with {block}:
    if len(sys.argv) > 2:
        tempfile.mkdtemp(prefix="wandb-media")
    print(flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process inside of a block, until it is killed."""

    def __init__(self, block: str, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": words[0]}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOLDS.format(block=block), *words]
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for each in made:
        each.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_the_next_writer_removes_the_file_of_a_killed_one_and_not_that_of_a_live_one(
    tmp_path: Path, hold: list[Holder]
) -> None:
    plan = tmp_path / "sweep.json"
    hold += [Holder(WRITES, str(tmp_path)), Holder(WRITES, str(tmp_path))]
    (tmp_path / ".other.json.0123abcd").touch()  # of another file
    assert len(names(tmp_path)) == 3
    hold[0].kill()
    records.write_text(plan, "{}")
    assert len(names(tmp_path)) == 3, "that of the live process stays"
    hold[1].kill()
    records.write_text(plan, "{}")
    assert names(tmp_path) == [".other.json.0123abcd", "sweep.json"]


def test_folders_of_killed_processes_are_removed_and_those_of_live_ones_are_not(
    tmp_path: Path, hold: list[Holder]
) -> None:
    hold += [Holder(RESTORES, str(tmp_path)), Holder(WORKS, str(tmp_path), "wandb"), Holder(WORKS, str(tmp_path))]
    others = [".capsexp-results1", ".capsexp-abcdef-0123abcd"]  # a user's, and that of another machine
    for name in others:
        (tmp_path / name).mkdir()
    hold[0].kill()
    hold[1].kill()
    records.clear_folders(tmp_path)
    with records.temporary_folder(tmp_path, ".restore-"):
        restoring = [name for name in names(tmp_path) if name.startswith(".restore-")]
        assert len(restoring) == 1
    (left,) = (name for name in names(tmp_path) if name not in others)
    assert left.startswith(temporary.PREFIX)
    hold[2].kill()
    records.clear_folders(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_a_process_that_ends_well_leaves_no_folder_and_its_own_settings(tmp_path: Path) -> None:
    code = (
        "import os, tempfile\nfrom capsexp import records\n"
        "with records.in_process_folder():\n"
        "    tempfile.mkdtemp()\n    assert os.environ['TMPDIR'] != os.environ['OWN']\n"
        "assert tempfile.gettempdir() == os.environ['TMPDIR'] == os.environ['OWN']\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path), "OWN": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert names(tmp_path) == []


def test_a_file_that_is_taken_for_a_leftover_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks at the very moment between its making and its lock."""
    lock, looks = temporary._lock, [True]

    def late(held: int) -> bool:
        if looks:
            looks.clear()
            temporary.clear(tmp_path, r"\.(file|restore).*")
        return lock(held)

    monkeypatch.setattr(temporary, "_lock", late)
    records.write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]
    looks.append(True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with records.temporary_folder(tmp_path, ".restore-") as folder:
        assert folder.is_dir()
