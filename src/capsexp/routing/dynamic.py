"""Dynamic routing: the couplings of every child add up to 1 over the parents."""

from torch import Tensor

from capsexp.routing.base import AgreementRouting


class Dynamic(AgreementRouting):
    """Sabour, Frosst and Hinton (2017), *Dynamic Routing Between Capsules*, procedure 1."""

    coupling_sum = 1.0

    @property
    def first_coupling(self) -> float:
        """1 / J: the softmax of logits that are all zero."""
        return 1 / self.parent_count

    def couple(self, logits_BJI: Tensor) -> Tensor:
        """Softmax over the parents."""
        return logits_BJI.softmax(1)
