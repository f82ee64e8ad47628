from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capsexp import records
from capsexp.build import load_run
from capsexp.callbacks.activity_vectors import ActivityVectors, perturbed
from capsexp.errors import ConfigError
from capsexp.nn.decoder import Decoder

Run = Callable[..., int]

CALLBACK = "+callbacks.activity_vectors={_target_: capsexp.callbacks.activity_vectors.ActivityVectors, steps: 5}"


@pytest.fixture
def words(tiny_npz: Path, in_tmp: Path) -> list[str]:
    model = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=[16]", "optimizer.lr=5e-3", CALLBACK]
    data = [
        "data=dhcd",
        f"data.path={tiny_npz}",
        "data.batch_size=16",
        "data.eval_batch_size=5",
        "trainer.max_epochs=3",
    ]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    return [*model, *data, *fixed, "callbacks.memory_check=null"]


def test_perturbed_is_the_decoder_one_pose_at_a_time() -> None:
    torch.manual_seed(0)
    decoder = Decoder(3, 4, (2, 5, 6), [7]).double()
    pose_E, offsets_S = torch.randn(4, dtype=torch.float64), torch.tensor([-0.5, 0.0, 0.25], dtype=torch.float64)
    found = perturbed(decoder, pose_E, 1, offsets_S)
    assert found.shape == (4, 3, 2, 5, 6)
    for component in range(4):
        for step, offset in enumerate(offsets_S):
            poses_BKE = torch.randn(1, 3, 4, dtype=torch.float64)  # the other classes are not seen
            poses_BKE[0, 1] = pose_E
            poses_BKE[0, 1, component] += offset
            torch.testing.assert_close(found[component, step], decoder(poses_BKE, torch.tensor([1]))[0])


def test_each_class_shows_its_first_recognised_test_image(run: Run, words: list[str], in_tmp: Path) -> None:
    assert run(*words) == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    loaded = load_run(cell)
    model: Any = loaded.module.model
    with np.load(cell / records.ARRAYS) as stored:
        arrays = {name: stored[name] for name in stored.files if name.startswith("decoded/")}
    np.testing.assert_allclose(arrays["decoded/steps"], [-0.25, -0.125, 0, 0.125, 0.25])
    data = loaded.data()
    data.eval_batch_size = 512
    (batch,) = data.test_dataloader()
    with torch.inference_mode():
        output = model.capsules(batch.images_BCHW)
        right_B = output.activations_BJ.argmax(1) == batch.labels_B
        drawn = model.decoder(output.poses_BJE, batch.labels_B)
    assert {name for name in arrays if name.endswith("original")} == {f"decoded/class{k}/original" for k in range(4)}
    for label in range(4):
        mine = (batch.labels_B == label).nonzero().flatten()
        recognised = mine[right_B[mine]]
        chosen = int(recognised[0] if len(recognised) else mine[0])
        np.testing.assert_array_equal(arrays[f"decoded/class{label}/original"], batch.pixels_BCHW[chosen].numpy())
        grid = arrays[f"decoded/class{label}"]
        assert grid.shape == (16, 5, 1, 28, 28)
        assert grid.dtype == np.uint8
        for row in grid:  # no change draws the image as it is
            assert np.abs(row[2] - drawn[chosen].numpy() * 255).max() <= 0.51
        assert (grid[:, 0] != grid[:, 4]).any()


def test_a_network_without_decoder_is_refused_before_it_is_trained(
    run: Run, words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "model.decoder=null") == 2
    assert "callbacks.activity_vectors must be null where the model has no decoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 4}, "steps must be odd"), ({"steps": 1}, "steps must be a whole number >= 3"), ({"reach": 0}, "reach")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ActivityVectors(**options)
