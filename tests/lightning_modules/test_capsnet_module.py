import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from capsexp.errors import ConfigError
from capsexp.lightning_modules.capsnet import LOSSES, CapsNetModule
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.losses.margin import margin_loss
from capsexp.losses.nll import nll_loss
from capsexp.losses.spread import spread_loss
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.routing import EM, Dynamic, InvertedAttention, SelfAttention, SelfRouting, VariationalBayes
from capsexp.types import Batch

SHAPE = (1, 17, 17)


def module(decoder: list[int] | None = None, **options: Any) -> CapsNetModule:
    torch.manual_seed(0)
    model = CapsNet(image_shape=SHAPE, classes=3, routing=Dynamic, c1=8, c2=16, decoder=decoder)
    with torch.no_grad():  # poses long enough, and a decoder loud enough, that it matters which class is drawn
        model.class_capsules.weight.mul_(20)
        for parameter in model.decoder.parameters() if model.decoder else ():
            parameter.mul_(5)
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    return CapsNetModule(model=model, make_optimizer=adam, sizes={}, **options)


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels_BCHW = torch.randint(256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return Batch(pixels_BCHW / 127.5 - 1, torch.arange(count) % 3, pixels_BCHW)


def test_without_a_decoder_the_loss_is_the_margin_loss() -> None:
    given, plain = batch(), module()
    loss, scores_BK, terms = plain.shared_step(given)
    assert torch.equal(scores_BK, plain.model(given.images_BCHW))
    assert torch.equal(loss, margin_loss(scores_BK, given.labels_B))
    assert dict(terms) == {}
    assert plain.terms == ()


@torch.no_grad()
def drawn_errors(made: CapsNetModule, given: Batch, shown_B: torch.Tensor) -> float:
    """Sum of squares by hand, in the pixels' own range."""
    poses_BKE = made.model.capsules(given.images_BCHW).poses_BJE  # type: ignore[operator,union-attr]
    drawn = made.model.decoder(poses_BKE, shown_B)  # type: ignore[operator]
    errors = [
        ((image - pixels.double() / 255) ** 2).sum() for image, pixels in zip(drawn, given.pixels_BCHW, strict=True)
    ]
    return float(sum(errors)) / len(errors)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_with_a_decoder_the_squared_differences_of_the_image_come_in(training: bool) -> None:
    """In training the true class is drawn, in evaluation the longest capsule, against pixels in 0..1."""
    given, made = batch(), module([8]).train(training)
    loss, scores_BK, terms = made.shared_step(given)
    longest_B = scores_BK.argmax(1)
    assert not torch.equal(longest_B, given.labels_B)
    expected = drawn_errors(made, given, given.labels_B if training else longest_B)
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-5)
    margin = margin_loss(scores_BK, given.labels_B).item()
    assert terms["margin"].item() == pytest.approx(margin, rel=1e-6)
    assert loss.item() == pytest.approx(margin + 0.0005 * expected, rel=1e-5)


def test_the_target_does_not_depend_on_how_images_are_normalised() -> None:
    given, made = batch(), module([8])
    expected = drawn_errors(made, given, given.labels_B)
    assert made.shared_step(given).terms["reconstruction"].item() == pytest.approx(expected, rel=1e-5)
    assert expected < SHAPE[1] * SHAPE[2]  # all differences are below one


def test_weights_of_the_terms_are_options() -> None:
    given = batch()
    made = module([8], present=0.8, absent=0.2, down_weight=0.25, reconstruction_weight=0.0)
    loss, scores_BK, _ = made.shared_step(given)
    expected = margin_loss(scores_BK, given.labels_B, present=0.8, absent=0.2, down_weight=0.25)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_of_the_code_that_zhao_adapted() -> None:
    """Half of the mean margin loss over the classes, and .0005 times the summed squares: 2 K = 6 times their weight."""
    given, theirs, ours = batch(), module([8], reduction="half_mean"), module([8], reconstruction_weight=6 * 0.0005)
    loss, scores_BK, _ = theirs.shared_step(given)
    margin = margin_loss(scores_BK, given.labels_B).item() / 6
    assert loss.item() == pytest.approx(margin + 0.0005 * drawn_errors(theirs, given, given.labels_B), rel=1e-5)
    assert ours.shared_step(given).loss.item() == pytest.approx(6 * loss.item(), rel=1e-5)


@pytest.mark.parametrize("key", ["present", "absent", "down_weight", "reconstruction_weight", "reduction"])
def test_bad_options_are_named(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        module(**{key: -1})
    assert caught.value.key == key


def test_capsule_weights_keep_their_layout() -> None:
    """Convolutions are laid out channels last; the transformation matrices must stay as matrix products read them."""
    made = module([8])
    assert made.model.class_capsules.weight.is_contiguous()  # type: ignore[union-attr,operator]
    assert made.model.primary.conv.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]


# -- other losses -----------------------------------------------------------------------------------------------------


def routed(routing: Any, loss: str, margins: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> CapsNetModule:
    torch.manual_seed(0)
    sizes = {"image_shape": SHAPE, "classes": 3, "c1": 8, "c2": 16, "decoder": None}
    model = CapsNet(**sizes, routing=routing, **options)
    return CapsNetModule(model=model, make_optimizer=torch.optim.Adam, sizes={}, loss=loss, **margins)


@pytest.mark.parametrize(
    ("routing", "options"),
    [(SelfRouting, {"dim_class": 0}), (SelfRouting, {}), (Dynamic, {}), (SelfAttention, {})],
)
def test_the_likelihood_of_activations(routing: Any, options: dict[str, Any]) -> None:
    given, made = batch(), routed(routing, "nll", **options)
    loss, scores_BK, _ = made.shared_step(given)
    assert torch.equal(scores_BK, made.model.capsules(given.images_BCHW).activations_BJ)  # type: ignore[operator,union-attr]
    true_B = scores_BK[torch.arange(6), given.labels_B] / scores_BK.sum(1)
    assert loss.item() == pytest.approx(-true_B.log().mean().item(), rel=1e-6)


@pytest.mark.parametrize("routing", [InvertedAttention, Dynamic])
def test_the_cross_entropy_of_a_linear_head(routing: Any) -> None:
    given, made = batch(), routed(routing, "cross_entropy", head="linear")
    loss, scores_BK, _ = made.shared_step(given)
    poses_BKE = made.model.capsules(given.images_BCHW).poses_BJE  # type: ignore[operator,union-attr]
    head: Any = made.model.head
    expected_BK = (poses_BKE * head.weight_E).sum(2) + head.bias
    torch.testing.assert_close(scores_BK, expected_BK)
    assert loss.item() == pytest.approx(F.cross_entropy(expected_BK, given.labels_B).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("routing", "loss", "options", "line"),
    [
        (SelfRouting, "margin", {}, "loss must be nll or cross_entropy: the activations of SelfRouting add up to 1"),
        (Dynamic, "nll", {"head": "linear"}, "loss must be cross_entropy: the scores of model.head=linear are logits"),
        (Dynamic, "hinge", {}, "loss must be one of margin, spread, nll, cross_entropy, got 'hinge'"),
        (SelfRouting, "spread", {}, "loss must be nll or cross_entropy: the activations of SelfRouting add up to 1"),
        (InvertedAttention, "nll", {}, "head must be linear: InvertedAttention has no activations"),
        (SelfRouting, "nll", {"head": "linear", "dim_class": 0}, "head must be activations where class capsules have"),
    ],
)
def test_what_does_not_fit_together_is_refused(routing: Any, loss: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        routed(routing, loss, **options)
    assert str(caught.value).startswith(line)


def test_a_network_that_is_no_capsule_network_is_refused() -> None:
    model = CNN(image_shape=SHAPE, classes=3)
    with pytest.raises(ConfigError, match=r"^model must be a capsexp.models.base.CapsuleClassifier, got 'CNN'$"):
        CapsNetModule(model=model, make_optimizer=torch.optim.Adam, sizes={})


@pytest.mark.parametrize("routing", [EM, VariationalBayes])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_fits_probabilities(routing: Any, loss: str) -> None:
    given, made = batch(), routed(routing, loss, normaliser="batch_norm", activation="logistic")
    found, scores_BK, _ = made.shared_step(given)
    expected = {
        "margin": lambda: margin_loss(scores_BK, given.labels_B),
        "spread": lambda: spread_loss(scores_BK, given.labels_B, margin=0.9),
        "nll": lambda: nll_loss(scores_BK, given.labels_B),
        "cross_entropy": lambda: F.cross_entropy(scores_BK, given.labels_B),
    }
    assert torch.equal(found, expected[loss]())
    found.backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in made.model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


# -- the margin of the spread loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_outside_of_a_fit_the_spread_loss_has_the_last_margin(training: bool) -> None:
    given, made = batch(), routed(Dynamic, "spread", {"last_margin": 0.7}).train(training)
    loss, scores_BK, _ = made.shared_step(given)
    assert torch.equal(loss, spread_loss(scores_BK, given.labels_B, margin=0.7))


class Margins(L.Callback):
    """Keeps the margin of every step."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Before the step, whose margin it is."""
        self.train.append(pl_module.spread_margin)  # type: ignore[arg-type]

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """In evaluation."""
        self.val.append(pl_module.spread_margin)  # type: ignore[arg-type]


def fitted(made: CapsNetModule, **limits: Any) -> Margins:
    """The margins of a fit with 4 batches an epoch."""
    margins, loader = Margins(), DataLoader([batch() for _ in range(4)], batch_size=None)  # type: ignore[arg-type]
    fixed = {**dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False), "accelerator": "cpu"}
    with quiet_lightning():
        trainer = L.Trainer(callbacks=[margins], enable_model_summary=False, num_sanity_val_steps=0, **fixed, **limits)
        trainer.fit(made, loader, loader)
    return margins


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_epochs": 3}, 12),
        ({"max_epochs": 3, "max_steps": 6}, 6),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 1, "max_steps": 1}, 1),
    ],
)
def test_the_margin_grows_linearly_over_the_steps_of_a_fit(limits: dict[str, Any], steps: int) -> None:
    made = routed(Dynamic, "spread", {"first_margin": 0.1, "last_margin": 0.6})
    margins = fitted(made, **limits)
    assert margins.train == pytest.approx([0.1 + 0.5 * step / max(1, steps - 1) for step in range(steps)])
    assert set(margins.val) <= {0.6}
    assert made.train().spread_margin == 0.6


def test_steps_over_accumulated_batches_count_once() -> None:
    made = routed(Dynamic, "spread")
    margins = fitted(made, max_epochs=2, accumulate_grad_batches=2)
    expected = [0.2 + 0.7 * step / 3 for step in range(4) for _ in range(2)]
    assert margins.train == pytest.approx(expected)


def test_a_fit_without_a_limit_is_refused() -> None:
    line = r"^trainer.max_epochs must be a limit: the margin of loss=spread grows over the fit, got -1$"
    with pytest.raises(ConfigError, match=line):
        fitted(routed(Dynamic, "spread"), max_epochs=-1)


@pytest.mark.parametrize(
    ("margins", "line"),
    [
        ({"first_margin": -0.1}, "first_margin must be a number in [0, 1], got -0.1"),
        ({"last_margin": 0}, "last_margin must be a number in (0, 1], got 0"),
        ({"last_margin": 1.1}, "last_margin must be a number in (0, 1], got 1.1"),
        ({"first_margin": 0.5, "last_margin": 0.4}, "first_margin must be at most last_margin=0.4, got 0.5"),
        ({"first_margin": "x"}, "first_margin must be a number in [0, 1], got 'x'"),
    ],
)
def test_margins_out_of_range_are_refused(margins: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        routed(Dynamic, "spread", margins)
    assert str(caught.value) == line


def test_it_says_why_it_is_not_stacked() -> None:
    assert routed(Dynamic, "spread").alone == "the margin of the loss spread moves with every step"
    assert routed(Dynamic, "margin").alone is None
