"""``python -m capsexp.new NAME``: write a small project of one's own that runs, from the files in ``template/``."""

import argparse
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands, records
from capsexp.errors import require

TEMPLATE = Path(__file__).parent / "template"
PLACE = "@NAME@"
"""What stands for the project's name in the template's files and in their paths."""

ENDING = ".in"
"""The ending of the template's files; without it, tools would take them for modules and tests of capsexp."""

LONGEST = 60
"""Characters of a name at most."""

TAKEN = ("conf", "multirun", "tests")
WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")
"""Words that YAML or Hydra read as something else than a text."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "new",
        "Write a small project into a new folder: a routing, a data set, an experiment and tests, ready to run.",
        "The README.md in the folder has its commands.",
    )
    parser.add_argument("name", metavar="NAME", help="of the folder and of the package in it: a Python name")
    return commands.run(parser, _run, words)


def _run(given: argparse.Namespace) -> None:
    folder = make_project(given.name, Path())
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    lines = [f"{folder / name}\n" for name in names]
    sys.stdout.write(f"{''.join(lines)}cd {folder} && python -m capsexp --config-dir conf +experiment={given.name}\n")


def make_project(name: str, parent: Path) -> Path:
    """Write a project into a new folder; all of it appears at once, or nothing does.

    Args:
        name: of the project, of its folder and its package.
        parent: the folder in which it is made.

    Returns:
        The project's folder.

    Raises:
        ConfigError: the name is not one that a package and an option of a config group can have, or is in use.
        OSError: the folder cannot be written.
    """
    check_name(name)
    folder = parent / name
    require(not folder.exists() and not folder.is_symlink(), "NAME", "be a folder that does not exist", name)
    require(not _is_module(name), "NAME", "be the name of no module that is installed or can be imported here", name)
    with records.temporary_folder(parent, f".{name}.new-") as temporary:
        made = temporary / name
        for file, text in rendered(name).items():
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            records.write_text(made / file, text)
        made.rename(folder)
    return folder


def check_name(name: str) -> None:
    """Check that a package, and an option of a config group, can have this name.

    Raises:
        ConfigError: key ``NAME``.
    """
    rule = f"be a Python name of at most {LONGEST} ASCII letters, digits and _ that begins with a letter"
    require(len(name) <= LONGEST and re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is not None, "NAME", rule, name)
    reserved = keyword.iskeyword(name) or keyword.issoftkeyword(name) or name.lower() in WORDS
    require(not reserved, "NAME", "be no keyword of Python, YAML or Hydra", name)
    require(name not in TAKEN, "NAME", "be no folder of the project itself", name)
    found = sorted(path.parent for path in records.CONF.rglob(f"{name}.yaml") if path.parent.name != "claims")
    place = next(iter(found), records.CONF).relative_to(records.CONF)
    group = "config" if place == Path() else place.as_posix()
    require(not found, "NAME", f"be the name of no {group} of capsexp ({Path('conf') / place})", name)


def rendered(name: str) -> dict[str, str]:
    """The text of each file of the project, by its path in the project's folder."""
    files = sorted(path for path in TEMPLATE.rglob(f"*{ENDING}") if path.is_file())
    texts = {path.relative_to(TEMPLATE).as_posix(): path.read_text(encoding="utf-8") for path in files}
    return {file.removesuffix(ENDING).replace(PLACE, name): text.replace(PLACE, name) for file, text in texts.items()}


def _is_module(name: str) -> bool:
    if name in sys.stdlib_module_names or name in sys.modules:
        return True
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    sys.exit(main())
