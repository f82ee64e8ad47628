"""The names that Sahu and Altahhan (2024) give their networks: C20D8 has 20 capsules of 8 components."""

import re

from capsexp.errors import ConfigError

NAME = re.compile(r"C([1-9]\d*)D([1-9]\d*)")


def network_size(name: object, size: str) -> int:
    """Hydra resolver ``${network_size:C20D8,capsules}``: one of the two sizes that a network's name says.

    Args:
        name: of the network, the value of ``study.net``.
        size: ``capsules`` or ``dim``.

    Raises:
        ConfigError: it is no such name.
    """
    found = NAME.fullmatch(str(name))
    if found is None:
        raise ConfigError("study.net", "say C capsules of D components, as C20D8 does", name)
    return int(found[{"capsules": 1, "dim": 2}[size]])
