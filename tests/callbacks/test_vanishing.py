"""Values of every layer in cells that the command trains, against plain references on the networks they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp import load_run, records
from capsexp.callbacks.vanishing import LayerReader, VanishingLogger, children_of, fades, watched_layers
from capsexp.nn.capsules import CapsuleLayer, ConvCapsules
from capsexp.nn.passes import evaluation
from capsexp.nn.primary import PrimaryCapsules
from tests.conftest import results
from tests.references import coupling_dynamics, dead_capsules

Run = Callable[..., int]


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return [
        *("+experiment=vanishing", "hydra/launcher=basic", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40"),
        *("study.net=C3D4", "model.depth=2", "trainer.max_epochs=1", "callbacks.broken.last=1", "threads=1"),
        *("callbacks.memory_check=null", "logger.wandb.mode=disabled"),
    ]


def one_cell(folder: Path) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    ((name, body),) = results(folder).items()
    directory = folder / "multirun" / "vanishing" / name
    with np.load(directory / records.ARRAYS) as arrays:
        return directory, body, dict(arrays)


def seen(model: nn.Module, images_BCHW: Tensor) -> dict[str, tuple[Any, Any]]:
    """What each layer was given and gave."""
    found: dict[str, tuple[Any, Any]] = {}

    def keep(name: str) -> Any:
        return lambda _, given, gave: found.update({name: (given[0], gave)})

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in watched_layers(model).items()]
    with evaluation(model):
        model(images_BCHW)
    for hook in hooks:
        hook.remove()
    return found


def test_the_last_row_is_what_the_trained_network_does(small: list[str], run: Run, in_tmp: Path) -> None:
    assert run(*small) == 0
    directory, body, arrays = one_cell(in_tmp)
    loaded = load_run(directory)
    batches = list(loaded.data().val_dataloader())
    images = torch.cat([batch.images_BCHW for batch in batches])
    model = loaded.module.model.double()
    found, layers = seen(model, images.double()), watched_layers(model)
    assert list(layers) == ["primary", "layer1", "layer2", "class_capsules"]
    for place, (name, layer) in enumerate(layers.items()):
        given, gave = found[name]
        poses = gave[0].view(*gave[0].shape, *[1] * (5 - gave[0].ndim))
        expected = dead_capsules.activity(poses.numpy(), 0.01)
        row = {key: table[-1, place] for key, table in arrays.items() if table.ndim == 2 and key.startswith("layers/")}
        assert row["layers/activity"] == pytest.approx(expected["mean_length"].mean(), abs=1e-5)
        assert row["layers/activity_std"] == pytest.approx(expected["std_length"].mean(), abs=1e-5)
        assert row["layers/vanished_share"] == pytest.approx(expected["silent"].mean(), abs=1e-6)
        assert row["layers/dead_types_share"] == pytest.approx(expected["dead_types"].mean(), abs=1e-6)
        if isinstance(layer, CapsuleLayer):
            coupling, activity, mask = children_of(layer, given, gave.coupling_BJI)
            there = torch.ones_like(activity, dtype=torch.bool) if mask is None else mask
            choice = coupling_dynamics.dynamics(coupling.numpy(), activity.numpy(), there.numpy())
            assert row["layers/active"] == pytest.approx(choice["vibrance"][1], abs=1e-3)  # type: ignore[index]
            assert row["layers/bonding"] == pytest.approx(choice["bonding"], abs=1e-3)
    inner = arrays["layers/activity"][-1, 1:3].mean()
    assert body["metrics"]["layers/activity"] == pytest.approx(float(inner), rel=1e-5)
    assert body["metrics"]["broken"] in (0.0, 1.0)
    assert "layers/layer2/activity" in (directory / records.METRICS).read_text().splitlines()[0]


def test_it_changes_nothing_and_gradients_are_those_of_the_first_step(small: list[str], run: Run, in_tmp: Path) -> None:
    assert run(*small, "optimizer.weight_decay=0.5") == 0
    _, body, arrays = one_cell(in_tmp)
    assert arrays["gradients/number"].tolist() == list(range(7))
    np.testing.assert_allclose(arrays["gradients/decay"][0, 4:6], 0.5 * 0.5, rtol=0.05)  # of matrices N(0, .5)
    assert (arrays["gradients/loss"] > 0).all()
    assert body["metrics"]["gradients/decay_to_loss"] > 1
    directory = next((in_tmp / "multirun").glob("vanishing/*/result.json")).parent
    weights = load_run(directory).module.model.state_dict()
    assert run(*small, "optimizer.weight_decay=0.5", "callbacks.vanishing=null") == 0
    (other,) = {path.parent for path in (in_tmp / "multirun").glob("vanishing/*/result.json")} - {directory}
    for name, value in load_run(other).module.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_shares_are_even_before_the_first_step_of_self_routing(small: list[str], run: Run, in_tmp: Path) -> None:
    assert run(*small, "routing=self_routing") == 0
    _, _, arrays = one_cell(in_tmp)
    np.testing.assert_allclose(arrays["layers/activity"][0, 1:3], 1, atol=1e-6)  # 1/J, times J
    np.testing.assert_allclose(arrays["layers/activity_std"][0, 1:3], 0, atol=1e-6)
    assert (arrays["layers/vanished_share"][0, 1:3] == 0).all(), "its poses change with the image"
    assert (arrays["layers/variation"][0, 1:3] > 0.01).all()


def test_only_lengths_fade(small: list[str], run: Run, in_tmp: Path) -> None:
    assert run(*small, "routing=inverted_attention") == 0
    directory, _, arrays = one_cell(in_tmp)
    layers = watched_layers(load_run(directory).module.model)
    assert not any(fades(layer) for layer in layers.values())
    assert [name for name, layer in layers.items() if isinstance(layer, ConvCapsules)] == ["layer1", "layer2"]
    np.testing.assert_allclose(arrays["layers/activity"][0], [2, 2, 2, 4], rtol=0.02)  # the root of the components


@pytest.mark.parametrize(("weight", "bias", "silent"), [(0.0, 0.5, 0), (0.0, 1e-3, 1), (1e-3, 0.0, 1), (0.5, 0.0, 0)])
def test_a_capsule_that_does_not_change_has_vanished(weight: float, bias: float, silent: float) -> None:
    primary = PrimaryCapsules(1, 4, 2, kernel=3)
    with torch.no_grad():
        primary.conv.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(weight)
        primary.conv.bias.fill_(bias)  # type: ignore[union-attr]
    reader = LayerReader(primary, 0.01, 1.5, torch.device("cpu"))
    primary(torch.randn(50, 1, 6, 6, generator=torch.Generator().manual_seed(1)))
    reader.stop()
    found = reader.values()
    assert found["silent_share"] == silent
    assert found["vanished_share"] == (1 if weight < 0.01 else 0)


def test_a_fit_that_goes_on_has_the_rows_of_one_that_was_not_interrupted(
    small: list[str], run: Run, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [*small, "trainer.max_epochs=3", "callbacks.resume.min_interval_s=0", "callbacks.peak.patience=9"]
    assert run(*longer) == 0
    directory, _, whole = one_cell(in_tmp)
    (directory / records.RESULT).unlink()
    ended, once = VanishingLogger.on_train_epoch_start, []

    def interrupted(self: VanishingLogger, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 2 and not once:
            once.append(True)
            raise KeyboardInterrupt
        ended(self, trainer, module)

    monkeypatch.setattr(VanishingLogger, "on_train_epoch_start", interrupted)
    assert run(*longer) != 0
    assert (directory / records.RESUME_CHECKPOINT).exists()
    assert run(*longer) == 0
    _, _, resumed = one_cell(in_tmp)
    assert once
    assert whole["layers/activity"].shape == (4, 4)
    for name in (name for name in whole if name.startswith(("layers/", "gradients/"))):
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
