"""Master coefficients of trained networks against a procedure that keeps every image's couplings."""

import functools
import pickle
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.data.augment import Crop
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError
from capsexp.filters.base import Filter
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.losses.margin import margin_loss
from capsexp.models.capsnet import CapsNet
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, as_children, capsule_layers
from capsexp.nn.primary import PrimaryCapsules
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.fixed import Fixed
from capsexp.routing.max_min import MaxMin
from capsexp.routing.uniform import Uniform
from capsexp.types import Batch, StepOutput
from tests.conftest import write_tiny_npz
from tests.references import accumulation as reference

pytestmark = pytest.mark.filterwarnings("ignore:.*(treespec, LeafSpec|does not have many workers|logging interval).*")

Normalise = Callable[[reference.Array], reference.Array]

ROUTINGS: dict[str, tuple[Any, Normalise]] = {
    "max_min": (MaxMin, reference.max_min),
    "narrow": (
        functools.partial(MaxMin, lower=0.2, upper=0.7),
        functools.partial(reference.max_min, lower=0.2, upper=0.7),
    ),
    "dynamic": (Dynamic, reference.softmax),
    "uniform": (Uniform, reference.unchanged),
    "fixed": (Fixed, reference.unchanged),
}

ROUNDING = 4e-6
"""Of couplings in float32 that Max-Min has stretched to 0..1: processors add up in different orders."""


# -- small networks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def npz() -> Iterator[None]:
    """Trained networks are shared by the tests of this file."""
    trained.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        Folder.path = Path(folder)
        write_tiny_npz(Folder.path)
        yield


class Folder:
    path: Path


def images(**options: Any) -> ImageDataModule:
    settings = {"batch_size": 16, "eval_batch_size": 17, "select_on": "test"} | options
    return ImageDataModule(path=str(Folder.path / "tiny.npz"), augment=Crop(28), **settings)


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=Folder.path,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )


def network(routing: str, **sizes: Any) -> CapsNetModule:
    torch.manual_seed(0)
    model = CapsNet(
        image_shape=(1, 28, 28), classes=4, routing=ROUTINGS[routing][0], c1=8, c2=16, decoder=None, **sizes
    )
    return CapsNetModule(model=model, make_optimizer=lambda each: torch.optim.Adam(each, 5e-3), sizes={})


class Deep(nn.Module):
    """Primary capsules, capsules that see windows, and class capsules."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 9, stride=4)
        self.primary = PrimaryCapsules(4, 12, 6, kernel=3)
        self.middle = ConvCapsules(2, 3, 6, 5, MaxMin, kernel=kernel, stride=stride, padding=padding)
        places = len(range(-padding, 3 + padding - kernel + 1, stride)) ** 2
        self.last = ClassCapsules(3 * places, 4, 5, 6, Dynamic)

    def first(self, images_BCHW: Tensor) -> Tensor:
        poses_BTDHW: Tensor = self.primary(self.conv(images_BCHW).relu()).poses  # 3 x 3 places
        return poses_BTDHW

    def forward(self, images_BCHW: Tensor) -> Tensor:
        lengths_BK: Tensor = self.last(as_children(self.middle(self.first(images_BCHW)).poses_BJE)).activations_BJ
        return lengths_BK


class DeepModule(BaseModule):
    def shared_step(self, batch: Batch) -> StepOutput:
        lengths_BK = self.model(batch.images_BCHW)
        return StepOutput(margin_loss(lengths_BK, batch.labels_B), lengths_BK)


def deep(kernel: int, stride: int, padding: int) -> DeepModule:
    torch.manual_seed(0)
    model = Deep(kernel, stride, padding)
    return DeepModule(model=model, make_optimizer=lambda each: torch.optim.Adam(each, 1e-2), sizes={})


@functools.cache
def trained(make: Callable[..., BaseModule], *what: Any) -> dict[str, Tensor]:
    """Weights behind a few epochs, which tell the classes apart."""
    module = make(*what)
    trainer(max_epochs=5).fit(module, datamodule=images())
    return {name: value.clone() for name, value in module.state_dict().items()}


def capsnet(routing: str) -> CapsNetModule:
    """A trained one, as if nothing had ever been done with it."""
    module = network(routing)
    module.load_state_dict(trained(network, routing))
    if routing == "fixed":
        module.model.class_capsules.routing.set_coupling(torch.rand(4, 72))  # type: ignore[operator,union-attr]
    return module


def accumulate(module: L.LightningModule, callback: MasterCoefficients, **options: Any) -> None:
    one = trainer(callback)
    for _ in range(callback.passes):
        one.predict(module, datamodule=images(**options), return_predictions=False)


@torch.no_grad()
def stored(module: L.LightningModule) -> tuple[np.ndarray, np.ndarray]:
    """Every training image's coupling matrix (N, J, I), and the labels (N,)."""
    module.eval()
    (batch,) = images(eval_batch_size=1000).predict_dataloader()
    coupling_BJI = module.model.capsules(batch.images_BCHW).coupling_BJI  # type: ignore[operator,union-attr]
    return coupling_BJI.double().numpy(), batch.labels_B.numpy()


def master_of(module: L.LightningModule, name: str = "class_capsules") -> np.ndarray:
    master_JI = capsule_layers(module.model)[name].master_JI  # type: ignore[arg-type]
    assert master_JI is not None
    assert not master_JI.is_inference()
    return master_JI.double().numpy()


# -- the class layer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_master_is_made_as_section_5_says(routing: str) -> None:
    module = capsnet(routing)
    couplings_NJI, labels_N = stored(module)
    accumulate(module, MasterCoefficients())
    expected_JI = reference.master(couplings_NJI, labels_N, ROUTINGS[routing][1])
    np.testing.assert_allclose(master_of(module), expected_JI, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("routing", ["max_min", "dynamic"])
def test_ground_truth_columns_alone_are_those_of_appendix_a(routing: str) -> None:
    module, normalise = capsnet(routing), ROUTINGS[routing][1]
    couplings_NJI, labels_N = stored(module)
    accumulate(module, MasterCoefficients(columns="ground_truth"))
    expected_JI = reference.master_of_columns(couplings_NJI, labels_N, normalise)
    np.testing.assert_allclose(master_of(module), expected_JI, rtol=0, atol=ROUNDING)
    whole_JI = reference.master(couplings_NJI, labels_N, normalise)
    assert np.abs(expected_JI - whole_JI).max() > 1e-4, "both ways are the same here, so nothing was tested"


def test_the_networks_were_trained_and_couple_images_differently() -> None:
    for routing in ("max_min", "dynamic"):
        module = capsnet(routing)
        couplings_NJI, labels_N = stored(module)
        assert couplings_NJI.std(0).max() > 1e-3
        (batch,) = images(eval_batch_size=1000).test_dataloader()
        assert (module.predict(batch.images_BCHW) == batch.labels_B).float().mean() > 0.6
        means_KJI = reference.containers(couplings_NJI, labels_N, 4)
        assert np.abs(means_KJI - means_KJI.mean(0)).max() > 1e-3


# -- filters -----------------------------------------------------------------------------------------------------------


class Recording(Filter):
    """Keeps two of three images of every batch, and writes down all that it is shown."""

    def __init__(self, looks: int = 0) -> None:
        self.looks = looks
        self.told: list[str] = []
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        self.kept: list[bool] = []

    def reset(self, classes: int, children: int) -> None:
        self.told.append(f"reset {classes} {children}")

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        self.told.append("observe")
        self.seen.append((columns_BI.numpy().copy(), labels_B.numpy().copy()))

    def end_look(self) -> None:
        self.told.append("end")

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        self.told.append("keep")
        self.seen.append((columns_BI.numpy().copy(), labels_B.numpy().copy()))
        kept_B = torch.arange(len(labels_B)) % 3 != 1
        self.kept += kept_B.tolist()
        return kept_B


class Late(Recording):
    """Keeps nothing of the first two batches."""

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        kept_B = torch.full_like(labels_B, self.told.count("keep") >= 2, dtype=torch.bool)
        self.told.append("keep")
        self.kept += kept_B.tolist()
        return kept_B


@pytest.mark.parametrize("columns", ["whole", "ground_truth"])
@pytest.mark.parametrize("chosen", [Recording(), Recording(looks=1), Late()], ids=["some", "a look first", "late"])
def test_only_what_the_filter_keeps_counts(chosen: Recording, columns: str) -> None:
    module, callback = capsnet("max_min"), MasterCoefficients(chosen, columns)
    chosen.told, chosen.seen, chosen.kept = [], [], []
    couplings_NJI, labels_N = stored(module)
    accumulate(module, callback)
    kept_N = np.array(chosen.kept)
    assert len(kept_N) == len(labels_N) == 80
    assert 0 < kept_N.sum() < 80
    make = reference.master if columns == "whole" else reference.master_of_columns
    expected_JI = make(couplings_NJI[kept_N], labels_N[kept_N], reference.max_min)
    np.testing.assert_allclose(master_of(module), expected_JI, rtol=0, atol=ROUNDING)
    of_all_JI = make(couplings_NJI, labels_N, reference.max_min)
    assert np.abs(expected_JI - of_all_JI).max() > 1e-3
    assert callback.result_metrics(module) == {"filter/kept": kept_N.mean()}


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_filter_sees_the_same_columns_in_the_same_order(looks: int) -> None:
    module, chosen = capsnet("max_min"), Recording(looks)
    couplings_NJI, labels_N = stored(module)
    callback = MasterCoefficients(chosen)
    assert callback.passes == looks + 1
    accumulate(module, callback)
    batches = 5  # 80 images, 17 at a time
    assert chosen.told == ["reset 4 72"] + (["observe"] * batches + ["end"]) * looks + ["keep"] * batches
    expected_NI = reference.ground_truth(couplings_NJI, labels_N)
    for look in range(looks + 1):
        seen = chosen.seen[look * batches : (look + 1) * batches]
        assert np.array_equal(np.concatenate([labels for _, labels in seen]), labels_N)
        columns_NI = np.concatenate([columns for columns, _ in seen])
        np.testing.assert_allclose(columns_NI, expected_NI, rtol=0, atol=ROUNDING)
        for (columns, _), (again, _) in zip(seen, chosen.seen[:batches], strict=True):
            assert np.array_equal(columns, again)


@pytest.mark.parametrize("looks", [0, 1])
def test_a_second_accumulation_begins_again(looks: int) -> None:
    module, chosen = capsnet("max_min"), Recording(looks)
    callback = MasterCoefficients(chosen)
    accumulate(module, callback)
    first_JI, told = master_of(module), chosen.told
    with torch.no_grad():
        module.model.class_capsules.weight.normal_(std=0.2)  # type: ignore[operator,union-attr]
    couplings_NJI, labels_N = stored(module)
    chosen.told, chosen.kept = [], []
    accumulate(module, callback)
    assert chosen.told == told
    kept_N = np.array(chosen.kept)
    expected_JI = reference.master(couplings_NJI[kept_N], labels_N[kept_N], reference.max_min)
    np.testing.assert_allclose(master_of(module), expected_JI, rtol=0, atol=ROUNDING)
    assert np.abs(master_of(module) - first_JI).max() > 1e-2


def test_a_class_of_which_nothing_is_kept_is_reported() -> None:
    class NoTwos(Filter):
        def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
            return labels_B != 2

    with pytest.raises(ConfigError, match="filter must keep an image of every class"):
        accumulate(capsnet("max_min"), MasterCoefficients(NoTwos()))


# -- other layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 1, 0), (3, 1, 1), (3, 2, 1)])
def test_a_layer_of_windows_gets_the_mean_over_images_and_places(kernel: int, stride: int, padding: int) -> None:
    module = deep(kernel, stride, padding)
    module.load_state_dict(trained(deep, kernel, stride, padding))
    chosen = Recording()
    module.eval()
    (batch,) = images(eval_batch_size=1000).predict_dataloader()
    with torch.no_grad():
        coupling_BLJI = module.model.middle(module.model.first(batch.images_BCHW)).coupling_BJI.double().numpy()  # type: ignore[operator,union-attr]
        poses = module.model.middle(module.model.first(batch.images_BCHW)).poses_BJE  # type: ignore[operator,union-attr]
        last_BJI = module.model.last(as_children(poses)).coupling_BJI.double().numpy()  # type: ignore[operator,union-attr]
    starts = range(-padding, 3 + padding - kernel + 1, stride)
    there_LI = np.array(
        [
            [0 <= top + y < 3 and 0 <= left + x < 3 for _, y, x in np.ndindex(2, kernel, kernel)]
            for top in starts
            for left in starts
        ]
    )
    assert coupling_BLJI.shape[1:] == (len(there_LI), 3, 2 * kernel**2)
    assert there_LI.all() == (padding == 0)
    accumulate(module, MasterCoefficients(chosen))
    flat, masks = coupling_BLJI.reshape(-1, 3, 2 * kernel**2), np.tile(there_LI, (len(batch.labels_B), 1))
    expected_JI = reference.mean_coupling(flat, masks)
    np.testing.assert_allclose(master_of(module, "middle"), expected_JI, rtol=0, atol=ROUNDING)
    if padding:
        assert np.abs(expected_JI - reference.mean_coupling(flat)).max() > 1e-3
    kept_N = np.array(chosen.kept)
    expected_JI = reference.master(last_BJI[kept_N], batch.labels_B.numpy()[kept_N], reference.softmax)
    np.testing.assert_allclose(master_of(module, "last"), expected_JI, rtol=0, atol=ROUNDING)


def test_a_child_that_is_nowhere_there_gets_no_weight() -> None:
    class Corner(Deep):
        """One place, so that the rim of its window is never there."""

        def first(self, images_BCHW: Tensor) -> Tensor:
            return super().first(images_BCHW)[..., :1, :1]

    torch.manual_seed(0)
    model = Corner(3, 3, 1)
    module = DeepModule(model=model, make_optimizer=torch.optim.Adam, sizes={})
    accumulate(module, MasterCoefficients())
    middle = master_of(module, "middle").reshape(3, 2, 3, 3)
    assert (middle[:, :, 1, 1] != 0).any()
    middle[:, :, 1, 1] = 0
    assert not middle.any()


# -- what it leaves ----------------------------------------------------------------------------------------------------


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def test_the_network_is_left_as_it_was() -> None:
    module = capsnet("max_min").train()
    module.model.conv1.eval()  # type: ignore[operator,union-attr]
    modes = {name: each.training for name, each in module.named_modules()}
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    data = images()
    before = [
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        data.state_dict()["generator"],
    ]
    python = random.getstate()
    callback = MasterCoefficients(Recording(looks=1))
    one = trainer(callback)
    for _ in range(callback.passes):
        assert one.predict(module, datamodule=data, return_predictions=False) is None
    assert {name: each.training for name, each in module.named_modules()} == modes
    after = module.state_dict()
    assert after.keys() - weights.keys() == {"model.class_capsules.master_JI"}
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert all(parameter.grad is None for parameter in module.parameters())
    states = [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64))]
    for old, new in zip(before, [*states, data.state_dict()["generator"]], strict=True):
        assert torch.equal(old, new)
    assert random.getstate() == python
    assert hooks(module) == 0
    assert [layer.inference for layer in capsule_layers(module.model).values()] == ["dynamic"]  # type: ignore[arg-type]


class Breaks(Recording):
    def __init__(self, error: BaseException, looks: int) -> None:
        super().__init__(looks)
        self.error = error

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        raise self.error

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("looks", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_exception_leaves_no_hook(error: BaseException, looks: int) -> None:
    module, before = capsnet("max_min"), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((RuntimeError, SystemExit)):
            accumulate(module, MasterCoefficients(Breaks(error, looks)))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert hooks(module) == 0
    assert module.model.class_capsules.master_JI is None  # type: ignore[operator,union-attr]


def test_a_model_without_capsules_is_refused() -> None:
    module = network("max_min")
    module.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    with pytest.raises(ConfigError, match=r"^model must be a network with capsule layers, got 'Sequential'$"):
        accumulate(module, MasterCoefficients())


def test_columns_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"^columns must be one of whole, ground_truth, got 'half'$"):
        MasterCoefficients(columns="half")


class Weigher(L.Callback):
    """The size of all that a callback holds, hooks and all, when a pass ends."""

    def __init__(self, callback: MasterCoefficients) -> None:
        self.callback = callback
        self.sizes: list[int] = []

    def on_predict_batch_end(self, *_: Any) -> None:
        left_out = ("_sums", "_reader", "log", "log_dict")  # the network, and what Lightning hangs on
        sums = self.callback._sums
        held = {name: value for name, value in {**vars(self.callback), **vars(sums)}.items() if name not in left_out}
        self.sizes.append(len(pickle.dumps((held, sums._reader._last))))


def test_what_it_holds_does_not_grow_with_the_images() -> None:
    module, callback = capsnet("max_min"), MasterCoefficients()
    weigher = Weigher(callback)
    one = trainer(callback, weigher)
    for _ in range(2):
        one.predict(module, datamodule=images(eval_batch_size=8), return_predictions=False)
    assert len(weigher.sizes) == 20
    assert max(weigher.sizes) - min(weigher.sizes) < 300


def test_the_result_holds_the_masters_and_the_share_kept() -> None:
    module, callback = deep(2, 1, 0), MasterCoefficients()
    assert callback.result_arrays(module) == {}
    accumulate(module, callback)
    arrays = callback.result_arrays(module)
    assert {name: array.shape for name, array in arrays.items()} == {"master/middle": (3, 8), "master/last": (4, 12)}
    for name in ("middle", "last"):
        assert arrays[f"master/{name}"].dtype == np.float32
        assert np.array_equal(arrays[f"master/{name}"], master_of(module, name).astype(np.float32))
    assert callback.result_metrics(module) == {"filter/kept": 1.0}
