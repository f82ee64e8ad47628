import functools
import math

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.types import Batch

# Lightning asks its tree library in a way that the library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")

SIZES = {"image_shape": [1, 4, 4], "classes": 3}


class Loader:
    """Batches of the given sizes, the last ones smaller."""

    def __init__(self, images_BCHW: Tensor, labels_B: Tensor, sizes: list[int]) -> None:
        parts = zip(images_BCHW.split(sizes), labels_B.split(sizes), strict=True)
        self.batches = [Batch(images_BCHW, labels_B, images_BCHW) for images_BCHW, labels_B in parts]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@pytest.fixture
def module() -> ClassifierModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5))
    return ClassifierModule(model, functools.partial(torch.optim.Adam, lr=0.01), SIZES)


def batch(count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images_BCHW = torch.randn(count, 1, 4, 4, generator=generator)
    return Batch(images_BCHW, torch.randint(3, (count,), generator=generator), images_BCHW)


def cross_entropies(scores_BK: Tensor, labels_B: Tensor) -> list[float]:
    rows = scores_BK.detach().double().tolist()
    return [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(rows, labels_B.tolist(), strict=True)]


def test_the_step_is_the_mean_cross_entropy(module: ClassifierModule) -> None:
    given = batch(7)
    module.eval()
    loss, scores_BK, _ = module.shared_step(given)
    assert torch.equal(scores_BK, module.model(given.images_BCHW))
    assert loss.item() == pytest.approx(sum(cross_entropies(scores_BK, given.labels_B)) / 7, abs=1e-6)
    assert loss.requires_grad


def trainer(**options: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(**quiet, enable_model_summary=False, num_sanity_val_steps=0, **options)


@pytest.mark.parametrize("split", ["val", "test"])
def test_uneven_batches_give_the_means_over_samples(module: ClassifierModule, split: str) -> None:
    images_BCHW, labels_B, _ = batch(23)
    evaluate = {"val": trainer().validate, "test": trainer().test}[split]
    (found,) = evaluate(module, Loader(images_BCHW, labels_B, [10, 10, 3]), verbose=False)
    scores_BK = module.eval()(images_BCHW)
    hits = sum(scores_BK.argmax(1) == labels_B).item()
    assert set(found) == {f"{split}/loss", f"{split}/acc"}
    assert found[f"{split}/acc"] == pytest.approx(hits / 23, abs=1e-6)
    assert found[f"{split}/loss"] == pytest.approx(sum(cross_entropies(scores_BK, labels_B)) / 23, abs=1e-6)


def test_a_second_pass_starts_from_nothing(module: ClassifierModule) -> None:
    once = trainer()
    first, second = (Loader(*batch(9, seed)[:2], [9]) for seed in (0, 1))
    before = once.validate(module, first, verbose=False)
    once.validate(module, second, verbose=False)
    assert once.validate(module, first, verbose=False) == before


def test_training_logs_its_own_means_and_learns(module: ClassifierModule) -> None:
    fit = trainer(max_epochs=2)
    before = module.model[1].weight.clone()
    fit.fit(module, Loader(*batch(10)[:2], [4, 4, 2]), Loader(*batch(5, 1)[:2], [5]))
    assert set(fit.callback_metrics) == {"train/loss", "train/acc", "val/loss", "val/acc"}
    assert not torch.equal(module.model[1].weight, before)


def test_the_training_mean_is_over_all_samples_of_the_epoch(module: ClassifierModule) -> None:
    module.model[2] = nn.Identity()
    module._make_optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    images_BCHW, labels_B, _ = batch(10)
    fit = trainer(max_epochs=1)
    fit.fit(module, Loader(images_BCHW, labels_B, [4, 4, 2]), Loader(*batch(5, 1)[:2], [5]))
    expected = sum(cross_entropies(module(images_BCHW), labels_B)) / 10
    assert float(fit.callback_metrics["train/loss"]) == pytest.approx(expected, abs=1e-6)


def test_the_optimizer_gets_what_is_trained(module: ClassifierModule) -> None:
    module.model[1].bias.requires_grad_(False)
    (group,) = module.configure_optimizers().param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(module.model[1].weight)]
    assert group["lr"] == 0.01


def test_sizes_travel_with_the_checkpoint_and_metrics_do_not(module: ClassifierModule) -> None:
    assert dict(module.hparams) == {"sizes": SIZES}
    assert set(module.state_dict()) == {"model.1.weight", "model.1.bias"}


def test_predict_is_in_evaluation_mode_and_leaves_no_graph(module: ClassifierModule) -> None:
    images_BCHW = batch(30).images_BCHW
    found = module.train().predict(images_BCHW)
    assert not module.training
    assert torch.equal(found, module(images_BCHW).argmax(1))
    assert not found.requires_grad
