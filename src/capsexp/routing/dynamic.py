"""Dynamic routing: the couplings of every child add up to 1 over the parents."""

from torch import Tensor

from capsexp.routing.base import AgreementRouting


class Dynamic(AgreementRouting):
    """Sabour, Frosst and Hinton (2017), *Dynamic Routing Between Capsules*, procedure 1.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> coupling = Dynamic(children=2, parents=2, dim_in=1, dim_out=1, iterations=3)(votes).coupling_BJI
        >>> coupling.sum(1).round(decimals=4)
        tensor([[1., 1.]])
    """

    shares = "parents"

    @property
    def first_coupling(self) -> float:
        """1 / J: the softmax of logits that are all zero."""
        return 1 / self.parent_count

    def couple(self, logits_BJI: Tensor) -> Tensor:
        """Softmax over the parents."""
        return logits_BJI.softmax(1)
