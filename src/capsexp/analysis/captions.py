"""What is said around a picture: its title, the lines below the title, and the note below the picture."""

from collections.abc import Iterable
from dataclasses import dataclass

SPREAD = "mean ± sample standard deviation"


def counted(sizes: Iterable[int]) -> str:
    """Numbers of trainings as text: ``n = 3``, or ``n = 2 to 3``; places without any do not count."""
    found = sorted(set(sizes) - {0}) or [0]
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]} to {found[-1]}"


@dataclass(frozen=True)
class Words:
    """The words around one picture.

    Attributes:
        name: stem of the picture's files.
        title: the line at its top.
        parts: what stands below the title, one after the other: data, number of trainings, the paper's word.
        note: what stands below the picture on the page.
    """

    name: str
    title: str
    parts: tuple[str, ...] = ()
    note: str = ""

    def lines(self, width: float, *extra: str) -> list[str]:
        """The lines below the title, broken between their parts where the picture (``width`` inches) ends."""
        fits = int(width * 13)
        lines = [""]
        for part in [*self.parts, *extra]:
            joined = f"{lines[-1]}   ·   {part}" if lines[-1] and part else lines[-1] + part
            lines = [*lines[:-1], joined] if len(joined) <= fits else [*lines, part]
        return [line if len(line) <= fits else line[: fits - 4] + " ..." for line in lines if line]
