import functools

import pytest
import torch
import torch.nn.functional as F

from capsexp.errors import ConfigError
from capsexp.lightning_modules.autoencoder import AutoencoderModule
from capsexp.models.autoencoder import Autoencoder
from capsexp.types import Batch

SHAPE = (1, 8, 8)


def module(decoder: str | None = "own", weight: float = 1.0) -> AutoencoderModule:
    torch.manual_seed(0)
    model = Autoencoder(image_shape=SHAPE, classes=3, c1=2, c2=3, decoder=decoder, dropout=0)
    sizes = {"image_shape": list(SHAPE), "classes": 3}
    parts = {"model": model, "make_optimizer": functools.partial(torch.optim.SGD, lr=0.1), "sizes": sizes}
    return AutoencoderModule(reconstruction_weight=weight, **parts)


@pytest.fixture
def batch() -> Batch:
    images_BCHW = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Batch(images_BCHW, torch.tensor([0, 1, 2, 0, 1, 2]), images_BCHW)


def parts(of: AutoencoderModule, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    model = of.model
    drawn_BCHW = model.reconstruct(batch.images_BCHW)
    squares = (drawn_BCHW - batch.images_BCHW).square()
    return squares.sum() / squares.numel(), F.cross_entropy(model(batch.images_BCHW), batch.labels_B)


def test_reconstruction_alone_is_the_mean_squared_error_and_has_no_accuracy(batch: Batch) -> None:
    given = module()
    given.only("reconstruct")
    loss, scores_BK, terms = given.shared_step(batch)
    torch.testing.assert_close(loss, parts(given, batch)[0])
    assert (scores_BK, dict(terms), given.measures) == (None, {}, ("loss",))


def test_classification_alone_is_the_cross_entropy(batch: Batch) -> None:
    given = module()
    given.only("classify")
    output = given.shared_step(batch)
    torch.testing.assert_close(output.loss, parts(given, batch)[1])
    assert given.measures == ("loss", "acc")


def test_both_are_weighed(batch: Batch) -> None:
    given = module(weight=0.25)
    output = given.shared_step(batch)
    error, entropy = parts(given, batch)
    torch.testing.assert_close(output.loss, entropy + 0.25 * error)
    assert given.measures == ("loss", "acc", "cross_entropy", "reconstruction")
    torch.testing.assert_close(dict(output.terms), {"cross_entropy": entropy, "reconstruction": error})


def test_without_a_decoder_it_classifies(batch: Batch) -> None:
    given = module(decoder=None)
    output = given.shared_step(batch)
    torch.testing.assert_close(output.loss, F.cross_entropy(given.model(batch.images_BCHW), batch.labels_B))
    assert given.measures == ("loss", "acc")


def test_the_weight_is_checked() -> None:
    with pytest.raises(ConfigError, match="reconstruction_weight"):
        module(weight=-1)
