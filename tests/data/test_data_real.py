"""The real files, where CAPSEXP_DATA names the folder that holds them; the digits need no file."""

import os
from pathlib import Path

import pytest

from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule
from capsexp.data.sources import Digits

FOLDER = os.environ.get("CAPSEXP_DATA")
PARTS = {
    "mnist": (60_000, 10_000, 10, (1, 28, 28)),
    "fashion_mnist": (60_000, 10_000, 10, (1, 28, 28)),
    "dhcd": (78_200, 13_800, 46, (1, 32, 32)),
    "cifar10": (None, None, 10, (3, 32, 32)),  # subsets are in use
}


@pytest.mark.real_data
@pytest.mark.skipif(FOLDER is None, reason="CAPSEXP_DATA names no folder with the real files")
@pytest.mark.parametrize("name", PARTS)
def test_a_real_file_has_the_published_counts(name):
    path = Path(FOLDER) / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the folder that CAPSEXP_DATA names")
    data = ImageDataModule(path=str(path), augment=Augment(), batch_size=128)
    n_train, n_test, classes, shape = PARTS[name]
    summary = data.summary()
    assert (data.classes, data.image_shape) == (classes, shape)
    assert n_train in (None, summary["n_train"] + summary["n_val"])
    assert n_test in (None, summary["n_test"])
    assert abs(summary["n_val"] - (summary["n_train"] + summary["n_val"]) / 10) <= classes
    first = next(iter(data.train_dataloader())).images_BCHW
    assert (first.min(), first.max()) == (-1, 1)


def test_the_digits_are_divided_85_to_15_and_then_90_to_10():
    summary = ImageDataModule(source=Digits(), augment=Augment(), batch_size=32).summary()
    assert (summary["n_train"], summary["n_val"], summary["n_test"]) == (1375, 153, 269)
    assert (summary["name"], summary["source"], summary["sha256"]) == ("digits", "embedded", None)
