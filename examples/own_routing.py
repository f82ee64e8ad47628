"""Write your own routing algorithm, and train a capsule network with it.

From any folder::

    python examples/own_routing.py model.c1=32 model.c2=32 trainer.max_epochs=2

A routing algorithm is a class that computes poses from votes.  An algorithm that iterates by agreement of votes and
parents inherits its loop from ``AgreementRouting`` and defines two things: the initial coupling, and the function from
logits to coupling.  (Any other algorithm inherits from ``Routing`` and defines ``forward`` itself.)  In the command,
``routing._target_`` names the class, and ``+routing.<option>`` its further options.

To keep it, put the class into ``src/capsexp/routing/``, its options into ``conf/routing/<name>.yaml``, and its slow
reference into ``tests/references/``; the tests for all routings then include it.
"""

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from capsexp import cli
from capsexp.errors import require_number
from capsexp.routing.base import AgreementRouting


class Tempered(AgreementRouting):
    """Dynamic routing whose softmax has a temperature: below 1 children choose more sharply, above 1 less.

    Args:
        temperature: divisor of the logits, above 0.
        **options: iterations, gradient and squash; the layer adds its sizes.
    """

    shares = "parents"  # couplings add up to 1 over them: declared, so that the tests check it

    def __init__(self, *, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = require_number("temperature", temperature, 0, open_ends="<")

    @property
    def first_coupling(self) -> float:
        """The softmax of equal logits."""
        return 1 / self.parent_count

    def couple(self, logits_BJI: Tensor) -> Tensor:
        """Softmax over the parents, the second dimension."""
        return (logits_BJI / self.temperature).softmax(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """One training with temperature 0.5 on the digits that ship with scikit-learn; more overrides may follow."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    own = ["model=capsnet", "routing._target_=own_routing.Tempered", "+routing.temperature=0.5"]
    return cli.main([*own, *given])


if __name__ == "__main__":
    sys.exit(main())
