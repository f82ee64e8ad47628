"""The search for the largest depth, and the names of networks, through the command."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capsexp import records
from capsexp.errors import ConfigError
from capsexp.recipes.max_depth import deepest_working
from capsexp.resolvers import network_size
from tests.conftest import results

Run = Callable[..., int]


@pytest.mark.parametrize("limit", [1, 2, 7, 30, 64])
def test_the_search_finds_every_answer_in_few_trials(limit: int) -> None:
    for answer in range(limit + 1):
        asked: list[int] = []

        def breaks(depth: int, answer: int = answer, asked: list[int] = asked) -> bool:
            asked.append(depth)
            return depth > answer

        assert deepest_working(breaks, limit) == answer
        assert len(asked) == len(set(asked)) <= 2 * limit.bit_length()
        assert all(1 <= depth <= limit for depth in asked)


@pytest.mark.parametrize(("name", "sizes"), [("C20D8", (20, 8)), ("C3D12", (3, 12))])
def test_a_name_says_two_sizes(name: str, sizes: tuple[int, int]) -> None:
    assert (network_size(name, "capsules"), network_size(name, "dim")) == sizes


@pytest.mark.parametrize("name", ["C20", "20D8", "C0D8", "c20d8", "C20D8 ", None, 7])
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"^study\.net must say C capsules of D components"):
        network_size(name, "dim")


@pytest.fixture
def deep(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return [
        *("+experiment=max_depth", "hydra/launcher=basic", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40"),
        *("study.net=C2D4", "recipe.limit=2", "callbacks.broken.last=2", "trainer.max_epochs=2", "threads=1"),
        *("callbacks.memory_check=null", "logger.wandb.mode=disabled"),
    ]


def test_a_network_that_cannot_learn_has_no_depth(deep: list[str], run: Run, in_tmp: Path) -> None:
    assert run(*deep, "model.intermediate_std=1e-6", "callbacks.broken.margin=1") == 0
    ((name, body),) = results(in_tmp).items()
    assert body["metrics"]["depth/largest"] == 0
    assert body["metrics"]["depth/bounded"] == 1
    assert body["metrics"]["depth/trials"] == 2  # one layer, and the network without any, whose numbers these are
    with np.load(in_tmp / "multirun" / "max_depth" / name / records.ARRAYS) as arrays:
        assert arrays["trials/depth"].tolist() == [0, 1]
        assert arrays["trials/broken"][1]


def test_the_limit_is_no_bound_and_trials_are_shared_with_other_experiments(
    deep: list[str], run: Run, in_tmp: Path
) -> None:
    assert run(*deep, "callbacks.broken.margin=0") == 0
    (body,) = results(in_tmp).values()
    assert (body["metrics"]["depth/largest"], body["metrics"]["depth/bounded"]) == (2, 0)
    stages = sorted(path.name for path in (in_tmp / "multirun" / ".stages").iterdir())
    assert len(stages) == 2  # one layer, two layers
    same = [word for word in deep if word not in ("+experiment=max_depth", "recipe.limit=2")]
    assert run("+experiment=depth", "model.depth=2", "callbacks.broken.margin=0", *same) == 0
    assert sorted(path.name for path in (in_tmp / "multirun" / ".stages").iterdir()) == stages


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.max_epochs=1"], "trainer.max_epochs must be at least callbacks.broken.last (2)"),
        (["callbacks.peak.patience=1"], "callbacks.peak.patience must be at least callbacks.broken.last (2)"),
        (["callbacks.broken=null"], "callbacks.broken must be there"),
        (["callbacks.broken.last=0"], "callbacks.broken.last must be a whole number >= 1, got 0"),
        (["study.net=C99"], "study.net must say C capsules of D components, as C20D8 does, got 'C99'"),
        (["model.capsules=5"], "study.net must be C5D4, what model.capsules and model.dim say, or null, got 'C2D4'"),
        (["~model.dim"], "model.dim must be there, since study.net names the network, got None"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_before_anything_is_trained(
    words: list[str], line: str, deep: list[str], run: Run, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*deep, *words) == 2
    assert line in capsys.readouterr().err
    assert not list(in_tmp.rglob("stage.json"))


def test_where_nothing_is_cut_the_criterion_changes_nothing(deep: list[str], run: Run, in_tmp: Path) -> None:
    same = [word for word in deep if word not in ("+experiment=max_depth", "recipe.limit=2")]
    control = ["+experiment=prune_criteria", "pruning.ratio=0", "trainer.max_epochs=1", *same]
    control.remove("trainer.max_epochs=2")
    for words in (["pruning=chip"], ["pruning=random"], ["pruning=chip", "recipe.inherit=false"]):
        assert run(*control, *words) == 0
    names = sorted(path.name.split("-")[0] for path in (in_tmp / "multirun" / ".stages").iterdir())
    assert names == ["base", "ccm", "pruned"]
