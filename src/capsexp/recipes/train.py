"""Train one architecture and test its best weights."""

from capsexp.callbacks.peak import save_best
from capsexp.recipes.base import Factories, Recipe
from capsexp.recipes.fit import fit
from capsexp.recipes.networks import Networks
from capsexp.recipes.outcome import Outcome, outcome_of


class Train(Recipe):
    """Train to the peak of the selection split, restore the best weights, test once.

    In the result, ``train/*`` are means of the last epoch, ``val/*`` those of the peak, and ``test/*`` those of the
    best weights.
    """

    def run(self, factories: Factories) -> Outcome:
        """Fit, test, and collect the results."""
        module, data = Networks(factories).new(), factories.make_data()
        trainer = factories.make_trainer()
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        return outcome_of(trainer, module, data, fitted, {**fitted.metrics, **tested})
