"""Routing with a given coupling, without iterations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from capsexp.errors import ConfigError, require
from capsexp.nn.votes import Votes
from capsexp.routing.base import Routing
from capsexp.types import RoutingOutput


class Fixed(Routing):
    """One coupling matrix for all images: Zhao et al. (2019), Fast Routing Procedure.

    The matrix is a buffer, so it is part of the checkpoint.  In evaluation the layer folds it into its transformation
    matrices, and its forward pass is one matrix product.

    Args:
        coupling: the matrix (J, I), or the path of a ``.npy`` file that holds it; None starts with 1 / J everywhere.
        **sizes: children, parents, dim_in, dim_out, and squash.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> routing = Fixed(coupling=torch.eye(2), children=2, parents=2, dim_in=1, dim_out=1)
        >>> routing(votes).poses_BJE  # the squashed votes 3 and -1
        tensor([[[ 0.9000],
                 [-0.5000]]])
    """

    coupling_JI: Tensor
    coupling_range = (-float("inf"), float("inf"))
    children_at: ClassVar[Mapping[str, int]] = {"coupling_JI": 1}

    def __init__(self, *, coupling: Tensor | str | None = None, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.register_buffer("coupling_JI", torch.full((self.parent_count, self.child_count), 1 / self.parent_count))
        if coupling is not None:
            rule = "be null or the path of a .npy file"
            require(isinstance(coupling, Tensor | str), "coupling", rule, coupling)
            self.set_coupling(_read(coupling) if isinstance(coupling, str) else coupling)

    def set_coupling(self, coupling_JI: Tensor) -> None:
        """Set the matrix (J, I).

        Raises:
            ConfigError: its shape is wrong, or it holds NaN or infinite values.
        """
        shape = tuple(coupling_JI.shape)
        rule = f"have the shape (parents, children) = {tuple(self.coupling_JI.shape)}"
        require(shape == tuple(self.coupling_JI.shape), "coupling", rule, shape)
        require(bool(coupling_JI.isfinite().all()), "coupling", "hold finite numbers", "NaN or infinity")
        # A copy, so that later changes by the caller have no effect.
        self.coupling_JI = coupling_JI.detach().to(self.coupling_JI, copy=True)

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """The squashed sum of the votes, weighted by the matrix."""
        return self.weigh(votes, self.coupling_JI)


def _read(path: str) -> Tensor:
    try:
        return torch.from_numpy(np.load(Path(path), allow_pickle=False))
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise ConfigError("coupling", f"name a .npy file with a matrix ({error})", path) from error
