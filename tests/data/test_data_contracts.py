"""Every data set and every augmentation that has a config file keeps the same promises; new files join in."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule

CONF = Path(__file__).parents[2] / "conf"
DATA = sorted(CONF.glob("data/*.yaml"))
AUGMENT = sorted(CONF.glob("augment/*.yaml"))
GENERATED = [file for file in DATA if "capsexp.data.variations." in file.read_text()]


def fake_npz(folder, config):
    """A tiny file with the image shape and the number of classes that the config announces."""
    channels, height, width = config.source.get("shape", [1, 32, 32])
    classes = config.source.get("classes", 10)
    shape = (height, width) if channels == 1 else (height, width, channels)
    random, path = np.random.RandomState(0), folder / "tiny.npz"
    arrays = {}
    for part, each in (("train", 10), ("test", 2)):
        arrays[f"x_{part}"] = random.randint(0, 256, (each * classes, *shape)).astype(np.uint8)
        arrays[f"y_{part}"] = random.permutation(np.repeat(np.arange(classes), each))
    np.savez(path, **arrays)
    return path, (channels, height, width), classes


def made(file, path, folder, augment, **settings):
    config = OmegaConf.load(file)
    config.path = path and str(path)
    if "cache" in config.source:
        config.source.cache = str(folder)
    return instantiate(
        OmegaConf.to_container(config, resolve=True) | settings, _convert_="all", augment=augment, seed=0
    )


def made_augment(file):
    """The augmentation of a config file, which may be made of others."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return instantiate(compose(f"augment/{file.stem}").augment, _convert_="all")


def made_from(file, path, folder, **settings):
    """A generated data set, made from the base ``path`` instead of the whole of MNIST."""
    config = OmegaConf.load(file)
    config.source.path, config.source.train_count, config.source.test_count = str(path), 70, 40
    config.source.update(settings)
    changed = folder / f"{file.stem}.yaml"
    OmegaConf.save(config, changed)
    return made(changed, None, folder, Augment())


@pytest.mark.parametrize("file", DATA, ids=lambda file: file.stem)
@pytest.mark.parametrize("augment_file", AUGMENT, ids=lambda file: file.stem)
def test_shapes_classes_and_batches(file, augment_file, tmp_path):
    path, shape, classes = fake_npz(tmp_path, OmegaConf.load(file))
    augment = made_augment(augment_file)
    assert isinstance(augment, Augment)
    data = made(file, path, tmp_path, augment)
    assert isinstance(data, ImageDataModule)
    assert data.classes == classes
    assert data.image_shape == (shape[0], *augment.output_size(*shape[1:]))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert batch.images_BCHW.shape[1:] == data.image_shape
        assert batch.images_BCHW.dtype == torch.float32
        assert (batch.labels_B.min() >= 0) & (batch.labels_B.max() < classes)


@pytest.mark.parametrize("file", DATA, ids=lambda file: file.stem)
def test_divisions_are_disjoint_and_stable(file, tmp_path):
    path, _, classes = fake_npz(tmp_path, OmegaConf.load(file))

    def parts(**settings):
        data = made(file, path, tmp_path, Augment(), **settings)
        loaders = (data.ordered_train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [[image.numpy().tobytes() for batch in loader for image in batch.images_BCHW] for loader in loaders]

    first = parts()
    assert [len(part) for part in first] == [9 * classes, classes, 2 * classes]
    assert len(set(itertools.chain(*first))) == 12 * classes
    assert first == parts()
    assert first[1] != parts(split_seed=1)[1]


@pytest.mark.parametrize("file", DATA, ids=lambda file: file.stem)
def test_the_file_is_named_in_the_summary(file, tmp_path):
    path, _, _ = fake_npz(tmp_path, OmegaConf.load(file))
    summary = made(file, path, tmp_path, Augment()).summary()
    assert (summary["name"], summary["source"], summary["test_split"]) == ("tiny", "npz", "published")
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("file", DATA, ids=lambda file: file.stem)
def test_settings_that_every_data_set_has(file):
    config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    expected = {"batch_size", "eval_batch_size", "split_seed", "val_share", "select_on", "normalise", "path", "source"}
    assert expected <= set(config)
    assert config["select_on"] == "val"
    assert config["path"] in (None, f"${{data_file:{file.stem}}}")
    assert config["source"].get("name", file.stem) == file.stem
    assert file.read_text().startswith("# ")


def test_every_data_set_of_an_experiment_after_zhao_has_its_preparation():
    files = [file for file in (CONF / "experiment").glob("*.yaml") if "zhao_${data}" in file.read_text()]
    grids = [OmegaConf.load(file).hydra.sweeper.params.get("data", "digits") for file in files]
    named = {name for grid in grids for name in grid.split(",")}
    assert len(named) > 4
    assert {CONF / "augment" / f"zhao_{name}.yaml" for name in named} <= set(AUGMENT)


# -- generated data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.stem)
def test_a_generated_data_set_has_the_shape_and_classes_of_its_base(file, tmp_path):
    path, shape, classes = fake_npz(tmp_path, OmegaConf.load(file))
    data = made_from(file, path, tmp_path)
    assert (data.image_shape, data.classes) == (shape, classes)
    summary = data.summary()
    assert (summary["name"], summary["source"], summary["generated"]) == (file.stem, "npz", True)
    assert (summary["n_train"] + summary["n_val"], summary["n_test"]) == (70, 40)
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.stem)
def test_a_generated_data_set_is_decided_by_its_seed(file, tmp_path):
    path, _, _ = fake_npz(tmp_path, OmegaConf.load(file))

    def parts(folder, **settings):
        (tmp_path / folder).mkdir()
        data = made_from(file, path, tmp_path / folder, **settings)
        loaders = (data.ordered_train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [[image.numpy().tobytes() for batch in loader for image in batch.images_BCHW] for loader in loaders]

    first = parts("first")
    assert len(set(itertools.chain(*first))) == 110
    assert first == parts("again")
    assert first[2] != parts("other", seed=1)[2]


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.stem)
def test_settings_that_every_generated_data_set_has(file):
    config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)["source"]
    assert config["name"] == file.stem
    assert (config["train_count"], config["test_count"], config["seed"]) == (12_000, 50_000, 0)
    assert (config["path"], config["cache"]) == ("${data_file:mnist}", "${paths.cache}")
