"""Buckets: members of similar widths are trained together, so that padding costs little."""

from collections.abc import Hashable, Sequence

Size = tuple[int, int]
"""The size of a member: its parameters, and a unique number that breaks ties."""


class Buckets:
    """The partition of each group into buckets of members with similar sizes.

    A group is cut when it is first trained, into parts of nearly equal count.  A member that joins later goes into the
    bucket of its size, so that the other members stay together.
    """

    def __init__(self) -> None:
        self._bounds: dict[Hashable, list[Size]] = {}
        self._numbers: dict[tuple[Hashable, Size | None], int] = {}

    def knows(self, group: Hashable) -> bool:
        """True if a group has been cut."""
        return group in self._bounds

    def cut(self, group: Hashable, sizes: Sequence[Size], number: int) -> None:
        """Cut a group into buckets.

        Args:
            group: the key of the group.
            sizes: the sizes of its members, all different.
            number: number of buckets; at most one per member.
        """
        self._bounds[group] = _cut(sizes, number)

    def of(self, group: Hashable, sizes: Sequence[Size]) -> list[int]:
        """The bucket number of each member of a group that was cut."""
        return [sum(size > bound for bound in self._bounds[group]) for size in sizes]

    def number(self, group: Hashable, size: Size) -> int:
        """A number for the bucket of a member, which no bucket of any group shares; it stays if others are halved."""
        bound = next((each for each in self._bounds[group] if size <= each), None)
        return self._numbers.setdefault((group, bound), len(self._numbers))

    def halve(self, group: Hashable, sizes: Sequence[Size]) -> None:
        """Cut a bucket in two.

        Args:
            group: the key of its group.
            sizes: the sizes of the bucket's members, at least two.
        """
        self._bounds[group] = sorted({*self._bounds[group], *_cut(sizes, 2)})


def _cut(sizes: Sequence[Size], number: int) -> list[Size]:
    """The largest size of every part but the last."""
    ordered, number = sorted(sizes), min(number, len(sizes))
    return [ordered[len(ordered) * (part + 1) // number - 1] for part in range(number - 1)]
