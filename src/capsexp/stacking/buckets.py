"""Members of like widths together, so that little is computed for the padding."""

from collections.abc import Hashable, Sequence

Size = tuple[int, int]
"""Of a member: its parameters, and a number of its own that decides between equals."""


class Buckets:
    """In how many parts of like size the members of a group are padded and trained, and who belongs to which.

    A group is cut when it is first trained, into parts of nearly equal count; whoever comes later goes where its size
    belongs, so that members stay with each other.
    """

    def __init__(self) -> None:
        self._bounds: dict[Hashable, list[Size]] = {}

    def knows(self, group: Hashable) -> bool:
        """True if a group has been cut."""
        return group in self._bounds

    def cut(self, group: Hashable, sizes: Sequence[Size], number: int) -> None:
        """Cut a group that is to be trained.

        Args:
            group: what its members have in common.
            sizes: all different.
            number: of buckets; no more than there are members.
        """
        self._bounds[group] = _cut(sizes, number)

    def of(self, group: Hashable, sizes: Sequence[Size]) -> list[int]:
        """The bucket of each member of a group that was cut."""
        return [sum(size > bound for bound in self._bounds[group]) for size in sizes]

    def halve(self, group: Hashable, sizes: Sequence[Size]) -> None:
        """Cut a bucket in two from now on.

        Args:
            group: the one that it is a part of.
            sizes: of the bucket's members, two at least.
        """
        self._bounds[group] = sorted({*self._bounds[group], *_cut(sizes, 2)})


def _cut(sizes: Sequence[Size], number: int) -> list[Size]:
    """The largest size of every part but the last."""
    ordered, number = sorted(sizes), min(number, len(sizes))
    return [ordered[len(ordered) * (part + 1) // number - 1] for part in range(number - 1)]
