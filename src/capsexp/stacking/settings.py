"""How stacks are trained: what a launcher hands down."""

from dataclasses import dataclass
from typing import Literal

FORMS = ("auto", "grouped", "vmap", "unfold", "loop")
"""How the convolution of all members is computed; ``auto`` is what is fastest on the device."""


@dataclass(frozen=True)
class Settings:
    """The settings of stacks.

    Attributes:
        form: one of :data:`FORMS`.
        buckets: in how many parts of like widths a stack's members are padded and trained; ``auto`` is what is fastest
            on the device.
    """

    form: str = "auto"
    buckets: int | Literal["auto"] = "auto"
