"""Keys that nothing reads: refused in one line with the nearest key, before anything is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]

ROOT = "there are augment, callbacks, data, filter, logger, model, optimizer, paths, pruning, recipe, report, seed, "
CASES = {
    "+scheduler._target_=torch.optim.lr_scheduler.StepLR": ("scheduler", ROOT),
    "scheduler=cosine": ("scheduler", ROOT),  # Hydra's own advice would be +scheduler=cosine
    "+compile=true": ("compile", ROOT),
    "+tags=[a]": ("tags", ROOT),
    "+lr=0.1": ("lr", "optimizer.lr is the most like it"),
    "+max_epoch=3": ("max_epoch", "trainer.max_epochs is the most like it"),
    "+modle=cnn": ("modle", "model is the most like it"),
    "+routing._target_=capsexp.routing.dynamic.Dynamic": ("routing", ROOT),  # the default network has no capsules
    "+logger.tensorboard._target_=x.Y": ("logger.tensorboard", "there are logger.wandb"),
    "+logger.wandb.tags=[a]": ("logger.wandb.tags", "there are logger.wandb.entity, "),
    "+paths.ouput=x": ("paths.ouput", "paths.output is the most like it"),
    "+sweep.nmae=x": ("sweep.nmae", "sweep.name is the most like it"),
    "+study.width=3": ("study.width", "there are study.net"),
}


@pytest.mark.parametrize("word", CASES)
def test_refused(run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    key, advice = CASES[word]
    assert run(*quick, word, *(["seed=0,1", "-m"] if "lr" in word else [])) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"capsexp: error: {key} must be a key that something reads ({advice}"), told
    assert told.count("\n") == 1
    assert list(in_tmp.iterdir()) == []


def test_a_callback_without_a_class_is_refused(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*quick, "+callbacks.mine.every=3") == 2
    assert "callbacks.mine must be a callback" in capsys.readouterr().err


ADVICE = {
    "modle.c2=2": "use +modle.c2=2 (model.c2 is the most like it)",
    "trainer.max_epoch=2": "use +trainer.max_epoch=2 (trainer.max_epochs is the most like it)",
    "+trainer.max_epoch=2": "argument 'max_epoch'; max_epochs is the most like it), got ",
    "+callbacks.peak.patiense=2": "argument 'patiense'; patience is the most like it), got ",
    "~trainer.max_epochs": "trainer.max_epochs must be there, got None",
    "~data.select_on": "data.select_on must be there, got None",
}


@pytest.mark.parametrize("word", ADVICE)
def test_a_misspelt_or_missing_key_of_an_open_group(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    words = [each for each in quick if not each.startswith("trainer.")] if word.startswith("~") else quick
    assert run(*words, word) == 2
    assert ADVICE[word] in capsys.readouterr().err


OWN = """# @package _global_
width: 6
my-depth: 3
shared: {rate: 1e-3}
model: {c2: "${width}", c3: "${my-depth}"}
optimizer: {lr: "${shared.rate}"}
study: {size: small}
report: {axes: {study.size: {label: size}}}
hydra: {sweeper: {params: {study.size: "small,large"}}}
"""


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([], None),  # read by interpolations and by the report
        (["model.c2=8"], None),  # the experiment's own default for what the command sets
        (["model.c2=8", "width=4"], "width"),
        (["+shared.decay=0"], "shared.decay"),  # beside a key that is read
        (["+height=4"], "height"),
        (["+wdith=4"], "wdith"),
        (["+height=4", "model.c3=${height}"], None),
        (["+height=4", "model.c3=${oc.select:height,3}"], None),
    ],
)
def test_keys_of_ones_own_experiment(
    run: Run,
    quick: list[str],
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    refused: str | None,
) -> None:
    (in_tmp / "own" / "experiment").mkdir(parents=True)
    (in_tmp / "own" / "experiment" / "mine.yaml").write_text(OWN)
    code = run("--config-dir", "own", "+experiment=mine", *quick, *words)
    assert code == (2 if refused else 0), capsys.readouterr().err
    assert refused is None or f"error: {refused} must be a key that something reads" in capsys.readouterr().err
