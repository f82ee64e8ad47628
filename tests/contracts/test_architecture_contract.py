"""Every architecture that has a config file keeps the same promises; new files join in."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch.nn.modules.batchnorm import _BatchNorm

from capsexp import build, resolvers
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier, count_parameters
from capsexp.sweep.cells import resolved
from capsexp.types import Batch

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in CONF.glob("model/*.yaml"))
STEPS = 6
SMALL = {
    "capsnet": ["model.c1=16", "model.c2=16", "model.decoder=[32]"],
    "wang_capsnet": ["model.c1=16", "model.c2=16"],
    "attention_capsnet": ["model.primary.types=4", "model.layers=[{types:4,dim:16,stride:2}]"],
    "efficient_capsnet": ["model.decoder=[32]"],
    "em_capsnet": ["model.primary.types=4", "model.layers=[{types:4,dim:16,stride:2}]"],
    "sr_capsnet": ["model.backbone.blocks=[1,1,1]", "model.primary.types=8"],
    "vb_capsnet": ["model.primary.types=4", "model.layers=[{types:4,dim:16,stride:2}]"],
}
"""Overrides that make a large architecture small enough for tests."""

SHIFTS = {"head.bias"}
"""One number added to the scores of all classes: no cross-entropy depends on it, and its gradient is rounding alone."""


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest, tiny_npz: Path, in_tmp: Path) -> dict[str, Any]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        overrides = [f"model={request.param}", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=64"]
        overrides += SMALL.get(request.param, [])
        return resolved(compose("config", [*overrides, "optimizer.lr=1e-3"]))


def made(config: dict[str, Any], seed: int = 0) -> tuple[Classifier, BaseModule, Batch]:
    config = config | {"seed": seed}
    data = build.make_data(config)
    model = build.make_model(config, image_shape=data.image_shape, classes=data.classes)
    module = build.make_module(config, model, {"image_shape": list(data.image_shape), "classes": data.classes})
    return model, module, next(iter(data.train_dataloader()))


def test_is_a_classifier_of_this_size(config: dict[str, Any]) -> None:
    model, module, batch = made(config)
    assert isinstance(model, Classifier)
    assert isinstance(module, BaseModule)
    scores_BK = model(batch.images_BCHW)
    assert scores_BK.shape == (64, 4)
    assert scores_BK.isfinite().all()


def test_a_few_steps_lower_the_loss(config: dict[str, Any]) -> None:
    """Without dropout, and by the batch's own statistics: after so few steps the running ones are far from them."""
    _, module, batch = made(config)
    optimizer = module.configure_optimizers()

    def loss() -> float:
        module.eval()
        for part in module.modules():
            part.train(isinstance(part, _BatchNorm))
        with torch.no_grad():
            return module.shared_step(batch).loss.item()

    before = loss()
    for _ in range(STEPS):
        optimizer.zero_grad()
        module.train().shared_step(batch).loss.backward()
        optimizer.step()
    assert loss() < before


def test_gradients_reach_every_parameter(config: dict[str, Any]) -> None:
    """From weights of which none is at a symmetric start, such as routing weights of zero."""
    model, module, batch = made(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.eval().shared_step(batch).loss.backward()
    whole = [(name, parameter) for name, parameter in model.named_parameters() if parameter.numel()]
    bare = [name for name, parameter in whole if parameter.grad is None or not parameter.grad.any()]
    assert not set(bare) - SHIFTS


def test_same_seed_same_weights_other_seed_others(config: dict[str, Any]) -> None:
    first, same, other = (dict(made(config, seed)[0].named_parameters()) for seed in (5, 5, 6))
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[name], same[name]) for name in first)
    random = [name for name, value in first.items() if value.unique().numel() > 1]  # not those that start at a constant
    assert random
    assert not any(torch.equal(first[name], other[name]) for name in random)


def test_parameters_are_counted(config: dict[str, Any]) -> None:
    model, _, _ = made(config)
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters()) > 0
    assert model.params_paper() > 0


def test_evaluation_is_image_by_image(config: dict[str, Any]) -> None:
    model, _, batch = made(config)
    model.eval()
    together, alone = model(batch.images_BCHW[:3]), [model(image[None]) for image in batch.images_BCHW[:3]]
    torch.testing.assert_close(torch.cat(alone), together)


def test_weights_go_through_a_file(config: dict[str, Any], tmp_path: Path) -> None:
    model, _, batch = made(config)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other, _, _ = made(config, seed=1)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.eval()(batch.images_BCHW), model.eval()(batch.images_BCHW))


def test_loss_is_that_of_its_module(config: dict[str, Any]) -> None:
    model, module, batch = made(config)
    module.eval()
    if type(module).__name__ != "ClassifierModule":
        pytest.skip("has a loss of its own")
    expected = F.cross_entropy(model(batch.images_BCHW), batch.labels_B)
    torch.testing.assert_close(module.shared_step(batch).loss, expected)
