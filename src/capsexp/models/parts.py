"""Parts of capsule networks that are given as options."""

from collections.abc import Mapping, Sequence
from typing import Any

from capsexp.errors import require, require_int
from capsexp.nn.decoder import Decoder


def make_decoder(
    classes: int, dim: int, image_shape: tuple[int, int, int], hidden: Sequence[int] | None
) -> Decoder | None:
    """The decoder of a network with class capsules of ``dim`` components, or None for ``hidden`` None.

    Raises:
        ConfigError: the widths are no list of whole numbers, or the class capsules have no poses.
    """
    if hidden is None:
        return None
    rule = "be null, or the widths of the hidden layers, such as [512, 1024]"
    require(isinstance(hidden, Sequence) and not isinstance(hidden, str) and len(hidden) > 0, "decoder", rule, hidden)
    require(dim > 0, "decoder", "be null where class capsules have no poses (dim_class=0)", hidden)
    for width in hidden:
        require_int("decoder", width, 1)
    return Decoder(classes, dim, image_shape, hidden)


def check_keys(key: str, given: Any, known: Sequence[str]) -> dict[str, Any]:
    """A mapping as a dict, if it has known keys alone.

    Raises:
        ConfigError: it is no mapping, or has another key.
    """
    require(isinstance(given, Mapping), key, f"be a mapping with the keys {', '.join(known)}", given)
    options = {str(name): value for name, value in given.items()}
    for name in options:
        require(name in known, key, f"have the keys {', '.join(known)} alone", name)
    return options
