"""Correlations and answers of a trained network against loops over all images."""

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.data.augment import Crop
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.models.capsnet import CapsNet
from capsexp.nn.capsules import set_inference
from capsexp.routing.max_min import MaxMin
from tests.references import accumulation as reference

pytestmark = pytest.mark.filterwarnings("ignore:.*(treespec, LeafSpec|does not have many workers|logging interval).*")

CLASSES = 4


class Setting:
    """A capsule network, its data, and one trainer with the analysis."""

    def __init__(self, folder: Path, npz: Path, callback: CouplingAnalysis, eval_batch_size: int = 9) -> None:
        torch.manual_seed(0)
        model = CapsNet(image_shape=(1, 28, 28), classes=CLASSES, routing=MaxMin, c1=8, c2=16, decoder=None)
        self.module = CapsNetModule(model=model, make_optimizer=torch.optim.Adam, sizes={})
        self.layer, self.npz, self.eval_batch_size = model.class_capsules, npz, eval_batch_size
        self.callback, self.masters = callback, MasterCoefficients()
        self.trainer = self.make_trainer(folder)
        self.data = self.images(eval_batch_size)

    def make_trainer(self, folder: Path) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[self.masters, self.callback],
        )

    def images(self, eval_batch_size: int = 1000) -> ImageDataModule:
        settings: dict[str, Any] = {"batch_size": 16, "eval_batch_size": eval_batch_size, "select_on": "test"}
        return ImageDataModule(path=str(self.npz), augment=Crop(28), **settings)

    def predict(self) -> None:
        self.trainer.predict(self.module, datamodule=self.data, return_predictions=False)

    def test(self, source: str) -> None:
        self.callback.source = source
        set_inference(self.module.model, "dynamic" if source == "dynamic" else "folded")  # type: ignore[arg-type]
        self.trainer.test(self.module, datamodule=self.data, verbose=False)
        set_inference(self.module.model, "dynamic")  # type: ignore[arg-type]

    @torch.no_grad()
    def stored(self, part: str) -> tuple[Any, Any]:
        """The routing of all images of a part, and their batch."""
        self.module.eval()
        data = self.images()
        (batch,) = data.predict_dataloader() if part == "train" else data.test_dataloader()
        return self.module.model.capsules(batch.images_BCHW), batch  # type: ignore[operator,union-attr]

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        output, batch = self.stored("train")
        labels_N = batch.labels_B.numpy()
        return reference.ground_truth(output.coupling_BJI.double().numpy(), labels_N), labels_N

    def hooks(self) -> int:
        return sum(len(each._forward_hooks) for each in self.module.modules())


@pytest.fixture
def setting(tmp_path: Path, tiny_npz: Path) -> Any:
    def make(eval_batch_size: int = 9, **options: int) -> Setting:
        return Setting(tmp_path, tiny_npz, CouplingAnalysis(**options), eval_batch_size)

    return make


def test_correlations_are_those_of_all_pairs_of_training_images(setting: Any) -> None:
    one = setting(correlated=20)
    one.predict()
    arrays, metrics = one.callback.result_arrays(one.module), one.callback.result_metrics(one.module)
    columns_NI, labels_N = one.columns()
    classes_KK = reference.class_correlation(columns_NI, labels_N, CLASSES)
    np.testing.assert_allclose(arrays["correlation/classes"], classes_KK, rtol=0, atol=1e-6)
    master_JK = reference.master_correlation(one.layer.master_JI.double().numpy(), columns_NI, labels_N)
    np.testing.assert_allclose(arrays["correlation/master"], master_JK, rtol=0, atol=1e-6)
    images_NN = reference.image_correlation(columns_NI[:20])
    np.testing.assert_allclose(arrays["correlation/images"], images_NN, rtol=0, atol=1e-6)
    assert arrays["correlation/images/labels"].tolist() == labels_N[:20].tolist()
    for name, matrix in (("classes", classes_KK), ("master", master_JK)):
        intra, inter = reference.intra_inter(matrix)
        assert metrics[f"correlation/{name}/intra"] == pytest.approx(intra, abs=1e-6)
        assert metrics[f"correlation/{name}/inter"] == pytest.approx(inter, abs=1e-6)
        assert abs(intra - inter) > 1e-4
    assert len(metrics) == 4


def test_several_passes_count_the_images_once(setting: Any) -> None:
    once, thrice = setting(correlated=500), setting(correlated=500)
    once.predict()
    for _ in range(3):
        thrice.predict()
    first, second = (one.callback.result_arrays(one.module) for one in (once, thrice))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len(second["correlation/images/labels"]) == 80


def test_answers_of_both_ways_are_kept_apart(setting: Any) -> None:
    one = setting()
    one.predict()
    one.test("dynamic")
    one.test("fast")
    arrays = one.callback.result_arrays(one.module)
    for source in ("dynamic", "fast"):
        set_inference(one.module.model, "dynamic" if source == "dynamic" else "fast")
        output, batch = one.stored("test")
        lengths_NK, labels_N = output.activations_BJ.double().numpy(), batch.labels_B.numpy()
        expected_KK = reference.class_responses(lengths_NK, labels_N)
        np.testing.assert_allclose(arrays[f"tuning/{source}"], expected_KK, rtol=0, atol=1e-6)
        np.testing.assert_allclose(arrays[f"probabilities/{source}"], lengths_NK[:5], rtol=0, atol=1e-6)
    assert np.abs(arrays["tuning/dynamic"] - arrays["tuning/fast"]).max() > 1e-4
    assert arrays["probabilities/labels"].tolist() == labels_N[:5].tolist()
    assert arrays["probabilities/images"].dtype == np.uint8
    assert np.array_equal(arrays["probabilities/images"], batch.pixels_BCHW[:5].round().numpy())


def test_a_second_test_takes_the_place_of_the_first(setting: Any) -> None:
    one = setting()
    one.test("dynamic")
    with torch.no_grad():
        one.layer.weight.normal_(std=0.2)
    one.test("dynamic")
    output, batch = one.stored("test")
    arrays = one.callback.result_arrays(one.module)
    lengths_NK = output.activations_BJ.double().numpy()
    expected_KK = reference.class_responses(lengths_NK, batch.labels_B.numpy())
    np.testing.assert_allclose(arrays["tuning/dynamic"], expected_KK, rtol=0, atol=1e-6)
    np.testing.assert_allclose(arrays["probabilities/dynamic"], lengths_NK[:5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("eval_batch_size", [2, 9, 1000])
def test_the_examples_are_the_first_images_however_they_are_cut(setting: Any, eval_batch_size: int) -> None:
    one = setting(eval_batch_size, shown=7)
    one.test("dynamic")
    output, batch = one.stored("test")
    arrays = one.callback.result_arrays(one.module)
    assert arrays["probabilities/labels"].tolist() == batch.labels_B[:7].tolist()
    expected = output.activations_BJ[:7].numpy()
    np.testing.assert_allclose(arrays["probabilities/dynamic"], expected, rtol=0, atol=1e-6)


def test_without_a_pass_or_a_test_there_is_nothing_to_say(setting: Any) -> None:
    one = setting()
    assert one.callback.result_arrays(one.module) == {}
    assert one.callback.result_metrics(one.module) == {}
    one.test("dynamic")
    assert one.callback.result_metrics(one.module) == {}


def test_arrays_are_plain_numbers(setting: Any) -> None:
    one = setting()
    one.predict()
    one.test("dynamic")
    kinds = {name: array.dtype for name, array in one.callback.result_arrays(one.module).items()}
    assert {str(kind) for kind in kinds.values()} == {"float32", "int64", "uint8"}


def test_no_hook_is_left(setting: Any) -> None:
    one = setting()
    one.predict()
    one.test("dynamic")
    one.predict()
    assert one.hooks() == 0


@pytest.mark.parametrize("step", ["predict_step", "test_step"])
def test_an_exception_leaves_no_hook(setting: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = setting()

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(one.module, step, fail)
    with pytest.raises(RuntimeError, match="broken"):
        one.predict() if step == "predict_step" else one.test("dynamic")
    assert one.hooks() == 0


def test_what_it_holds_does_not_grow_with_the_images(setting: Any) -> None:
    sizes = []
    for eval_batch_size in (80, 10):
        one = setting(eval_batch_size, correlated=10, shown=3)
        one.predict()
        one.test("dynamic")
        left_out = ("_reader", "_hook", "_heard_BK", "log", "log_dict")
        held = {name: value for name, value in vars(one.callback).items() if name not in left_out}
        sizes.append(len(pickle.dumps(held)))
    assert abs(sizes[1] - sizes[0]) < 300
    assert sizes[1] < 40_000  # 80 images' columns alone are 46 kB


@pytest.mark.parametrize("options", [{"correlated": 0}, {"shown": 0}, {"shown": 2.5}])
def test_counts_are_checked(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"^{name} must be a whole number >= [12], got"):
        CouplingAnalysis(**options)
