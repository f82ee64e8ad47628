from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp.callbacks.reconstructions import Reconstructions, as_pixels
from capsexp.errors import ConfigError
from capsexp.types import Batch


class Half(nn.Module):
    """Draws every image at half its values, unless it is in training mode."""

    decoder = "own"

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW * (7.0 if self.training else 0.5)


class Module(nn.Module):
    device = torch.device("cpu")
    hparams: Mapping[str, Any] = MappingProxyType({"sizes": {"classes": 9}})

    def __init__(self) -> None:
        super().__init__()
        self.model = Half()


def batches(labels: list[int], size: int = 4) -> list[Batch]:
    """Images whose pixels are 40 + label .. 240; normalised to [-1, 1]."""
    pixels_NCHW = torch.stack([torch.tensor([[[40.0 + label, 240.0], [100.0, 200.0]]]) for label in labels])
    images_NCHW = pixels_NCHW / 127.5 - 1
    return [
        Batch(images_NCHW[at : at + size], torch.tensor(labels[at : at + size]), pixels_NCHW[at : at + size].byte())
        for at in range(0, len(labels), size)
    ]


def found(labels: list[int], images: int = 10) -> dict[str, Any]:
    callback, module = Reconstructions(images), Module().train()
    for number, batch in enumerate(batches(labels)):
        callback.on_test_batch_end(None, module, None, batch, number)  # type: ignore[arg-type]
    return callback.result_arrays(module)  # type: ignore[arg-type]


def test_the_first_image_of_each_class_and_what_is_drawn_of_it_in_evaluation_mode() -> None:
    arrays = found([2, 0, 2, 1, 0])
    assert arrays["reconstructions/labels"].tolist() == [0, 1, 2]
    images = arrays["reconstructions/images"]
    assert (images.shape, images.dtype) == ((2, 3, 1, 2, 2), np.uint8)
    assert images[0, :, 0, 0, 0].tolist() == [40, 41, 42]
    expected = (images[0].astype(float) / 127.5 - 1) * 0.5  # on the scale of the normalised images
    np.testing.assert_allclose(images[1], ((expected + 1) * 127.5).round(), atol=1)


def test_classes_are_spread_evenly() -> None:
    assert found(list(range(9)), images=3)["reconstructions/labels"].tolist() == [0, 4, 8]


def test_without_a_test_there_is_nothing() -> None:
    assert Reconstructions().result_arrays(Module()) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(("slope", "offset"), [(1 / 127.5, -1.0), (1 / 255, 0.0), (0.03, -2.5)])
def test_any_line_from_pixels_to_values_is_undone(slope: float, offset: float) -> None:
    pixels_NCHW = torch.tensor([[[[10.0, 60.0], [200.0, 90.0]]]])
    images_NCHW = pixels_NCHW * slope + offset
    drawn_NCHW = torch.tensor([[[[20.0, 50.0], [255.0, 0.0]]]]) * slope + offset
    torch.testing.assert_close(
        as_pixels(drawn_NCHW, images_NCHW, pixels_NCHW), torch.tensor([[[[20.0, 50.0], [255.0, 0.0]]]]),
        atol=1e-3, rtol=0,
    )  # fmt: skip


def test_an_image_of_one_value_stays_one() -> None:
    pixels_NCHW = torch.full((1, 1, 2, 2), 30.0)
    drawn = as_pixels(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), pixels_NCHW)
    assert torch.equal(drawn, pixels_NCHW)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), SimpleNamespace(reconstruct=None, decoder=None)])
def test_a_network_that_draws_nothing_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="must be null where the model draws no images"):
        Reconstructions().setup(None, SimpleNamespace(model=model), "fit")  # type: ignore[arg-type]
