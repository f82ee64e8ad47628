"""What a command says of overrides that fit some swept values alone, and of options that are not there."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from capsexp import cli
from capsexp.errors import ConfigError
from capsexp.plan import main
from capsexp.run_settings import ACCELERATORS, CALLBACKS
from capsexp.sweep.messages import EXTRAS, misfit

Refused = Callable[..., str]


@pytest.fixture
def refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What is said of a sweep that cannot be planned."""

    def run(words: str) -> str:
        assert main([*words.split(), "-m"]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        return said.err.removeprefix("capsexp: error: ").rstrip("\n")

    return run


MISFITS = {
    "model=capsnet,deep_capsnet model.c1=8,16": (
        "Could not override 'model.c1' (refused with model=deep_capsnet, accepted with model=capsnet)"
    ),
    "seed=0,1 model=deep_capsnet,capsnet,cnn model.c1=8": (
        "Could not override 'model.c1' (refused with model=deep_capsnet, accepted with model=capsnet or model=cnn)"
    ),
    "model=cnn,capsnet routing=dynamic,max_min": (
        "routing must be given with a model of capsules, such as model=capsnet "
        "(refused with model=cnn, accepted with model=capsnet)"
    ),
    "augment=none,crop28 augment.size=24": (
        "Could not override 'augment.size' (refused with augment=none, accepted with augment=crop28)"
    ),
    "pruning=magnitude,cosine ~pruning.norm model=cnn,capsnet": (
        "Could not delete from config. 'pruning.norm' does not exist "
        "(refused with pruning=cosine, accepted with pruning=magnitude)"
    ),
    "model=capsnet,efficient_capsnet routing.prior=true,false": (
        "Could not override 'routing.prior' (refused with model=capsnet, accepted with model=efficient_capsnet)"
    ),
    "model=deep_capsnet,capsnet model.c9=1,2": "Could not override 'model.c9' (refused with model=deep_capsnet)",
    "model=deep_capsnet,autoencoder model.c3=8": "Could not override 'model.c3' (refused with model=deep_capsnet)",
}
"""Sweeps, and what is said; the last two fit nothing at all."""


@pytest.mark.parametrize("words", MISFITS)
def test_the_swept_values_that_an_override_does_not_fit(refused: Refused, words: str) -> None:
    assert refused(words) == MISFITS[words]


def test_two_values_that_are_refused_together_alone() -> None:
    def compose(choice: Sequence[str]) -> None:
        if {"a=1", "b=1"} <= {*choice}:
            raise ConfigError("a", "be smaller", 1)

    axes = [["a=1", "a=2"], ["b=1", "b=2"], ["c=1", "c=2"]]
    found = misfit(ConfigError("a", "be smaller", 1), ["a=1", "b=1", "c=1"], axes, compose)
    assert str(found) == "a must be smaller (refused with a=1 and b=1 together, accepted with a=2 or b=2), got 1"


def test_a_wrong_value_of_one_option(refused: Refused, tiny_npz: Path) -> None:
    said = refused("data=digits,mnist +data.source.cache=3")
    assert said == "data.source.cache must name a folder, got 3"
    said = refused(f"data.path={tiny_npz},nowhere.npz data=digits,mnist")
    assert said.startswith("data.path must name an existing .npz file, got ")


def test_options_and_keys_of_ones_own_are_known(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "mine" / "routing").mkdir(parents=True)
    (in_tmp / "mine" / "routing" / "own.yaml").write_text("{_target_: mine.Own, _partial_: true, slope: 1.0}")
    own = ["--config-dir", "mine", "model=capsnet", "routing=own"]
    assert cli.main([*own, "routing.slop=2"]) == 2
    assert "use +routing.slop=2 (routing.slope is the most like it)\n" in capsys.readouterr().err
    assert cli.main(own[2:]) == 2
    there, how = (
        "dynamic, em, fixed, inverted_attention, max_min, optimised, self_attention, self_routing, uniform, "
        "variational_bayes",
        "the folder of your own options is named by --config-dir",
    )
    assert capsys.readouterr().err == f"capsexp: error: routing must be one of {there}, got 'own' ({how})\n"


def test_a_search_names_the_option_too(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    words = ["hydra/sweeper=optuna", "model=deep_capsnet,baseline_cnn", "model.c3=4,5", "logger.wandb.mode=disabled"]
    assert cli.main([*words, "-m"]) == 2
    assert "error: Could not override 'model.c3' (refused with model=" in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("model=capsnet,wang_capsnet model.decoder=null", "++model.decoder=null"),
        ("model=capsnet,wang_capsnet routing.iterations=2", "++routing.iterations=2"),
        ("model=capsnet,deep_capsnet routing=max_min", "routing=choice(max_min)"),
    ],
)
def test_an_override_that_fits_all_swept_values_but_not_the_default(
    refused: Refused, capsys: pytest.CaptureFixture[str], words: str, how: str
) -> None:
    said = refused(words)
    assert said == (
        f"{how.lstrip('+').partition('=')[0]} must fit the default model, which is composed first; "
        f"if each swept model has it, give {how}"
    )
    first, _ = words.split()
    assert main([first, how, "-m"]) == 0, "the advice helps"
    assert " in multirun/" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["submitit_local", "submitit_slurm"])
def test_a_launcher_that_is_not_installed(refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store = ConfigStore.instance().repo["hydra"]["launcher"]
    for each in ("submitit_local", "submitit_slurm"):
        monkeypatch.delitem(store, f"{each}.yaml", raising=False)
    assert refused(f"model.c2=2,3 hydra/launcher={name}") == (
        f"hydra/launcher={name} must be installed: pip install 'capsexp[slurm]' "
        "(in a checkout: pip install -e '.[slurm]')"
    )
    assert refused("model.c2=2,3 hydra/launcher=slurm") == (
        "hydra/launcher must be one of auto, basic, capsexp, stacked, submitit_local with the extra slurm, "
        "submitit_slurm with the extra slurm, got 'slurm'"
    )


def test_a_misspelt_option_of_hydra(refused: Refused) -> None:
    said = refused("model.c2=2,3 hydra/sweeper=optna")
    assert said == "hydra/sweeper must be one of basic, capsexp, optuna, got 'optna'"


def test_the_extras_are_those_of_the_package() -> None:
    package = (Path(__file__).parents[2] / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    for extra in {extra for options in EXTRAS.values() for extra in options.values()}:
        assert f"\n{extra} = [" in package


def test_what_is_known_of_the_training_code_without_importing_it() -> None:
    import importlib
    import inspect

    from lightning.pytorch.accelerators import AcceleratorRegistry

    assert set(ACCELERATORS) == {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    for target, names in CALLBACKS.items():
        module, _, name = target.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert tuple(parameters) == names
