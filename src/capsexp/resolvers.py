"""The functions that the YAML files of ``conf/`` may call, as in ``${network_size:C20D8,dim}``."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from capsexp.errors import ConfigError
from capsexp.sweep.names import cell_name, sweep_name

NETWORK = re.compile(r"C([1-9]\d*)D([1-9]\d*)")
"""The names that Sahu and Altahhan (2024) give their networks: C20D8 has 20 capsules of 8 components."""


def network_size(name: object, size: str) -> int:
    """Hydra resolver ``${network_size:C20D8,capsules}``: one of the two sizes in a network's name.

    Args:
        name: of the network, the value of ``study.net``.
        size: ``capsules`` or ``dim``.

    Raises:
        ConfigError: the name has another form.
    """
    found = NETWORK.fullmatch(str(name))
    if found is None:
        raise ConfigError("study.net", "say C capsules of D components, as C20D8 does", name)
    return int(found[{"capsules": 1, "dim": 2}[size]])


Fitting = Mapping[str, str | int | float | None]

OF_LENGTHS: Fitting = {
    "loss": "margin",
    "head": "activations",
    "normaliser": "squash",
    "activation": "length",
    "dim_class": 16,
    "intermediate_std": 0.5,
}
OF_SUMS: Fitting = {**OF_LENGTHS, "intermediate_std": 0.05}
OF_ATTENTION: Fitting = {**OF_LENGTHS, "intermediate_std": None}
OF_SHARES: Fitting = {
    "loss": "nll",
    "head": "activations",
    "normaliser": "batch_norm",
    "activation": "logistic",
    "dim_class": 0,
    "intermediate_std": None,
}
OF_COSTS: Fitting = {
    "loss": "spread",
    "head": "activations",
    "normaliser": "none",
    "activation": "logistic",
    "dim_class": 16,
    "intermediate_std": None,
}
OF_ENTROPIES: Fitting = {
    "loss": "cross_entropy",
    "head": "activations",
    "normaliser": "type_norm",
    "activation": "logistic",
    "dim_class": 16,
    "intermediate_std": None,
}
OF_NO_ACTIVATIONS: Fitting = {
    "loss": "cross_entropy",
    "head": "linear",
    "normaliser": "layer_norm",
    "activation": "length",
    "dim_class": 16,
    "intermediate_std": None,
}

OF_ROUTINGS: Mapping[str, Fitting] = {
    "capsexp.routing.max_min.MaxMin": OF_SUMS,
    "capsexp.routing.self_attention.SelfAttention": OF_ATTENTION,
    "capsexp.routing.self_routing.SelfRouting": OF_SHARES,
    "capsexp.routing.inverted_attention.InvertedAttention": OF_NO_ACTIVATIONS,
    "capsexp.routing.em.EM": OF_COSTS,
    "capsexp.routing.variational_bayes.VariationalBayes": OF_ENTROPIES,
}
"""The options that the papers of routing algorithms choose, by the name of the class; all others have lengths."""


def fitting(routing: str, key: str) -> str | int | float | None:
    """Hydra resolver ``${fitting:${routing._target_},loss}``: an option of a capsule network, as fits its routing.

    Args:
        routing: the name of its class; one that is not ours counts as one with lengths.
        key: ``loss``, for ``model.module.loss``; ``head``, for ``model.head``; ``normaliser`` and ``activation``, for
            those of the primary capsules; ``dim_class``, the components of a class capsule; ``intermediate_std``, of
            the initial matrices of a deep network's intermediate layers.
    """
    return OF_ROUTINGS.get(routing, OF_LENGTHS)[key]


def data_file(name: str) -> str | None:
    """Hydra resolver ``${data_file:mnist}``: the path of ``<name>.npz`` in the folder that ``CAPSEXP_DATA`` names.

    Returns:
        None if there is no such file.
    """
    folder = os.environ.get("CAPSEXP_DATA")
    path = Path(folder, f"{name}.npz") if folder else None
    return str(path.absolute()) if path and path.is_file() else None


def register() -> None:
    """Register the resolvers with OmegaConf under the names of their functions."""
    for resolver in (cell_name, sweep_name, data_file, fitting, network_size):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
