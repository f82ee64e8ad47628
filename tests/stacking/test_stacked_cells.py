"""Cells trained in stacks: every file of theirs says the same as if each had been trained alone."""

from pathlib import Path

import pytest

from capsexp import records, stop_request
from capsexp.stacking.grouping import Settings
from tests.stacking.together import DOUBLE, alone, differences, together

CNN = ["data=dhcd", "data.batch_size=16", "model.c1=3", "model.c2=2,4", "model.c3=3"]
STACKED = Path("multirun/stacked")


@pytest.fixture
def words(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return [*DOUBLE, *CNN, f"data.path={tiny_npz}"]


def facts(cell: Path) -> dict:
    result = records.read_result(cell)
    assert result is not None
    return result


def test_widths_seeds_rates_clipping_dropout_and_early_stopping(words: list[str]):
    """Members stop at different epochs, so places fall idle, and the stack is made anew around those that are left."""
    stopping = ["trainer.max_epochs=5", "callbacks.peak.patience=1"]
    one = alone([*words, *stopping, "optimizer.lr=5e-3", "trainer.gradient_clip_val=0.3"], "one")
    two = alone([*words, *stopping, "seed=1", "optimizer.lr=3e-2", "optimizer.weight_decay=0.1"], "two")
    assert len(together(STACKED, one, two)) == 4
    assert differences(STACKED, one, two) == []
    found = [facts(cell) for cell in STACKED.glob("c2*")]
    assert len({each["training"]["epochs"] for each in found}) > 1
    assert {each["environment"]["stack"]["members"] for each in found} == {4}


def test_a_member_whose_loss_is_no_number_fails_alone(words: list[str]):
    serial = alone([*words, "optimizer.lr=5e-3,1e200", "trainer.max_epochs=3"], "serial", code=1)
    together(STACKED, serial)
    assert differences(STACKED, serial) == []
    causes = [records.read_status(cell).cause for cell in sorted(STACKED.glob("c2*"))]
    assert causes == [None, "diverged at step 2"] * 2


@pytest.mark.slow
def test_both_fits_of_an_autoencoder_with_a_shared_decoder(tiny_npz: Path, in_tmp: Path):
    """The contract of the recipes has one with a decoder of its own."""
    model = ["model=autoencoder", "model.decoder=shared", "model.c1=3", "model.c2=2,4", "model.latent=2"]
    more = ["recipe=autoencode_then_classify", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=16", "seed=0,1"]
    serial = alone([*DOUBLE, *model, *more, "optimizer.lr=1e-2", "trainer.max_epochs=2"], "serial")
    together(STACKED, serial)
    assert differences(STACKED, serial) == []
    assert {facts(cell)["environment"]["stack"]["members"] for cell in STACKED.glob("c2*")} == {4}


def test_walks_meet_again_at_every_cut(words: list[str]):
    walk = ["recipe=merge_walk", "recipe.mode=merge,remove", "recipe.steps=3", "pruning=cosine"]
    serial = alone([*words, *walk, "model.c2=3", "trainer.max_epochs=1"], "serial")
    ended = together(STACKED, serial)
    assert not any(each.busy for each in ended.values()), "whoever waits for the base is tried again"
    assert differences(STACKED, serial) == []


def test_a_stopped_stack_goes_on_and_ends_equal(words: list[str]):
    saving = [*words, "seed=0,1", "trainer.max_epochs=3", "callbacks.resume.min_interval_s=0"]
    serial = alone(saving, "serial")
    asked = iter([False] * 5)
    stop_request.listen(lambda: next(asked, True))
    try:
        states = {each.status.state for each in together(STACKED, serial).values()}
    finally:
        stop_request.listen(lambda: False)
    assert states == {"interrupted"}
    assert len(list(STACKED.glob("*/checkpoints/resume*"))) == 4
    together(STACKED, serial)
    assert differences(STACKED, serial) == []


def test_buckets_and_fits_that_cannot_be_stacked(words: list[str], caplog: pytest.LogCaptureFixture):
    """A fit that looks into single batches is trained alone, and its log says so."""
    plain = alone([*words, "seed=0,1", "trainer.max_epochs=2"], "plain")
    decay = "+callbacks.decay._target_=capsexp.callbacks.lr_decay.LearningRateDecay"
    odd = alone([*words, "seed=2", "trainer.max_epochs=2", decay], "odd")
    caplog.set_level("INFO")
    together(STACKED, plain, odd, settings=Settings("unfold", 2))
    assert differences(STACKED, plain, odd) == []
    sizes = [facts(cell)["environment"].get("stack", {}).get("members") for cell in STACKED.glob("c2*")]
    assert sorted(sizes, key=str) == [2, 2, 2, 2, None, None]
    logs = [(STACKED / cell.name / records.LOG).read_text() for cell in odd.glob("c2*")]
    assert ["not stacked: LearningRateDecay looks into single batches" in log for log in logs] == [True, True]


def test_every_line_is_in_the_log_of_its_own_cell(words: list[str], caplog: pytest.LogCaptureFixture):
    serial = alone([*words, "optimizer.lr=5e-3,1e200", "trainer.max_epochs=2", "model.c2=3"], "serial", code=1)
    caplog.set_level("INFO")
    together(STACKED, serial)
    logs = {cell.name: (cell / records.LOG).read_text() for cell in STACKED.glob("*lr*")}
    assert {"1e+200" in name for name, log in logs.items() if "no weights are kept" in log} == {True}


@pytest.mark.parametrize(
    ("more", "within"),
    [
        (["trainer.precision=bf16-mixed"], 1e-5),
        (["trainer.gradient_clip_val=0", "+trainer.min_epochs=2", "+trainer.check_val_every_n_epoch=2"], 1e-12),
    ],
    ids=["half precision", "limits that are none"],
)
def test_settings_of_the_trainer(words: list[str], more: list[str], within: float):
    serial = alone([*words, "seed=0,1", "trainer.max_epochs=2,3", "model.c2=3", *more], "serial")
    together(STACKED, serial)
    assert differences(STACKED, serial, within=within) == []
    assert {facts(cell)["environment"]["stack"]["members"] for cell in STACKED.glob("seed*")} == {4}
