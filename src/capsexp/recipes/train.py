"""Train one architecture and test its best weights."""

from capsexp.callbacks.peak import save_best
from capsexp.models.base import count_parameters
from capsexp.recipes.base import Factories, Outcome, Recipe, collect
from capsexp.recipes.fit import fit


class Train(Recipe):
    """Train to the peak of the selection split, bring the best weights back, test once.

    In the result ``train/*`` are the last epoch's means, ``val/*`` the peak's, and ``test/*`` the best weights'.
    """

    def run(self, factories: Factories) -> Outcome:
        """Fit, test, and gather what was found."""
        data = factories.make_data()
        module, model = factories.make_untrained(data)
        trainer = factories.make_trainer("train")
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        outcome = Outcome(
            metrics={**fitted.metrics, **tested},
            params=count_parameters(model),
            params_paper=model.params_paper(),
            training=fitted.training,
            data=data.summary(),
            memory=fitted.memory,
            clocks=fitted.clocks,
        )
        collect(trainer, module, outcome)
        return outcome
