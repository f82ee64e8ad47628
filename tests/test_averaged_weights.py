"""Weights that a callback puts into the network for the validation are those that are kept, tested and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from capsexp import records
from capsexp.build import load_run
from capsexp.callbacks.history import History
from tests.conftest import results

Run = Callable[..., int]

AVERAGE = ["+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.ema.decay=0.8"]
MORE = ["trainer.max_epochs=4", "optimizer.lr=0.01", "callbacks.resume.min_interval_s=0"]


def outcome(folder: Path) -> tuple[dict[str, Any], bytes]:
    (body,) = results(folder).values()
    (cell,) = records.cell_directories(folder / "multirun" / "adhoc").values()
    return body, (cell / records.BEST_CHECKPOINT).read_bytes()


def test_an_average_is_what_is_kept_tested_and_loaded_also_after_an_interruption(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*quick, *AVERAGE, *MORE, "data.select_on=test"]  # the validation's images are the test's
    assert run(*words) == 0
    body, weights = outcome(in_tmp)
    metrics = body["metrics"]
    assert metrics["test/loss"] == pytest.approx(metrics["val/loss"], rel=1e-6)
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    loaded = load_run(cell, trust=True)
    (batch,) = loaded.data().test_dataloader()
    hits = (loaded.module.predict(batch.images_BCHW) == batch.labels_B).float()
    assert float(hits.mean()) == pytest.approx(metrics["val/acc"])

    def stop(self: History, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    (cell / records.RESULT).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", stop)
        assert run(*words) == 130
    assert run(*words) == 0
    again, same = outcome(in_tmp)
    assert again["metrics"] == metrics
    assert same == weights


def test_an_average_that_no_validation_sees_is_refused(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    assert run(*quick, f"+callbacks.swa._target_={target}", "+callbacks.swa.swa_lrs=0.01") == 2
    assert "callbacks.swa must average the weights before they are validated" in capsys.readouterr().err
