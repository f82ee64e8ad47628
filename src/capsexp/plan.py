"""``python -m capsexp.plan``: show what ``python -m capsexp`` would run with the same arguments."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from capsexp import cli, commands
from capsexp.errors import CommandError, config_error
from capsexp.sweep import preview
from capsexp.sweep.estimate import estimate_of
from capsexp.sweep.messages import of_command
from capsexp.sweep.plan import Plan


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "plan",
        "Show what a command would run, what of it is done, and what the rest will cost. No sweep's folder is touched.",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for python -m capsexp")
    parser.add_argument("-m", "--multirun", action="store_true", help="every combination of the listed values")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="a further folder of configs")
    parser.add_argument(
        "--measure", action="store_true", help="run a few steps of some cells, to tell how long they take"
    )
    parser.add_argument("--folder", action="store_true", help="print the sweep's folder and nothing else")
    return commands.run(parser, _show, words, name="capsexp")


FORMER = {"register_resolvers": "register", "resolved": "resolved", "cell_id": "cell_id"}
"""Former names in this module, from before planning moved to ``capsexp.sweep``, and their present names."""


def __getattr__(name: str) -> Any:
    if name not in FORMER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from capsexp import resolvers
    from capsexp.sweep import cells

    home: Any = resolvers if name == "register_resolvers" else cells
    now = f"{home.__name__}.{FORMER[name]}"
    warnings.warn(f"{__name__}.{name} is now {now}; the former name goes with the next release", DeprecationWarning, 2)
    return getattr(home, FORMER[name])


def _show(given: argparse.Namespace) -> None:
    try:
        words = cli.normalise(given.overrides)
        plan = preview.plan_command(words, multirun=given.multirun, folder=given.config_dir)
        text = f"{plan.directory}\n" if given.folder else _text(plan, measure=given.measure)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise CommandError(str(config_error(error) or of_command(error, given.overrides))) from error
    sys.stdout.write(text)


def _text(plan: Plan, *, measure: bool) -> str:
    estimate = estimate_of(plan.directory, plan.sweep.cells, plan.frozen, plan.rerun)
    if not (measure and estimate.left):
        return preview.text_of(plan, estimate)
    from capsexp import forecast  # imports torch, which nothing else here does

    threads = plan.layout.threads if plan.options else None
    return preview.text_of(plan, estimate, forecast.measure(plan.frozen, estimate.left, threads))


if __name__ == "__main__":
    sys.exit(main())
