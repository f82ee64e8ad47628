"""A training step that does not fit into memory is refused before the first one, with a batch that would fit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from capsexp import build, hardware, records, resolvers
from capsexp.callbacks import memory_check
from capsexp.callbacks.history import History
from capsexp.callbacks.memory_check import MemoryCheck, free_memory
from capsexp.memory_estimate import training_step_bytes
from capsexp.sweep.cells import resolved
from tests.conftest import results

Run = Callable[..., int]

CONF = Path(__file__).parents[2] / "conf"
MB = 1_000_000


@pytest.fixture
def quick(quick: list[str]) -> list[str]:
    """With the check."""
    return [word for word in quick if not word.startswith("callbacks.memory_check")]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """``free(5)``: this machine has five bytes left."""
    return lambda count: monkeypatch.setattr(hardware, "available_memory", lambda: count)


def the_cell(folder: Path, output: str = "multirun") -> Path:
    (found,) = records.cell_directories(folder / output / "adhoc").values()
    return found


def cause(cell: Path) -> str:
    status = records.read_status(cell)
    assert status is not None
    assert (status.state, status.kind) == ("failed", "config")
    return status.cause or ""


def without_clocks(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "clocks"}


def test_the_line_names_what_is_needed_what_is_free_and_a_batch_that_fits(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    free(2 * MB)
    assert run(*quick, "data.batch_size=64") == 2
    line = (
        r"data\.batch_size must leave a training step room in memory "
        r"\(needs about (\d+) MB, 2 MB are free: set data\.batch_size=(\d+) or less\), got 64"
    )
    told = re.search(line, capsys.readouterr().err)
    assert told
    assert re.fullmatch(f"ConfigError: {line}", cause(the_cell(in_tmp)))
    needed, proposed = map(int, told.groups())
    assert 2 < needed < 10
    assert proposed in (8, 16, 32)
    assert run(*quick, f"data.batch_size={proposed}", "paths.output=proposed") == 0
    assert run(*quick, f"data.batch_size={2 * proposed}", "paths.output=doubled") == 2


def test_a_model_that_does_not_fit_with_any_batch(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int], None]
) -> None:
    free(1000)
    assert run(*quick) == 2
    assert re.search(r"\(needs about 1 MB, 0 MB are free: choose a smaller model\), got 16$", cause(the_cell(in_tmp)))


def test_of_a_batch_only_the_images_that_there_are_count(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int], None]
) -> None:
    free(100 * MB)
    assert run(*quick, "data.batch_size=1000000") == 0
    free(2 * MB)
    assert run(*quick, "data.batch_size=1000001", "paths.output=less") == 2
    assert cause(the_cell(in_tmp, "less")).endswith("or less), got 1000001")


def test_the_weights_are_there_already_and_need_no_room(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int | None], None]
) -> None:
    free(None)
    assert run(*quick) == 0
    (body,) = results(in_tmp).values()
    enough = body["memory"]["step_bytes"] - 4 * body["params"]
    for count, code in ((enough, 0), (enough - 1, 2)):
        free(count)
        assert run(*quick, f"paths.output={count}") == code


def test_a_refusal_loses_nothing(
    run: Run,
    quick: list[str],
    in_tmp: Path,
    free: Callable[[int | None], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(_: object, trainer: Any, module: object) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    arguments = [*quick, "trainer.max_epochs=4", "callbacks.resume.min_interval_s=0"]
    assert run(*arguments, "paths.output=straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", stop)
        assert run(*arguments) == 130
    checkpoint = the_cell(in_tmp) / records.RESUME_CHECKPOINT
    before = checkpoint.read_bytes()
    free(MB // 2)
    assert run(*arguments) == 2
    assert checkpoint.read_bytes() == before
    free(None)
    capsys.readouterr()
    assert run(*arguments) == 0
    assert "goes on from its checkpoint" in capsys.readouterr().out
    (straight,), (again,) = (results(in_tmp / name).values() for name in ("straight", "multirun"))
    assert without_clocks(straight) == without_clocks(again)


def test_the_other_cells_of_a_sweep_go_on(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int], None]
) -> None:
    free(2 * MB)
    assert run(*quick, "data.batch_size=8,64", "-m") == 1
    assert len(results(in_tmp)) == 1


@pytest.mark.parametrize("count", [None, 10**15])
def test_the_result_tells_the_bytes_and_no_number_changes(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int | None], None], count: int | None
) -> None:
    free(count)
    assert run(*quick) == 0
    assert run(*quick, "callbacks.memory_check=null", "paths.output=without") == 0
    ((name, checked),) = results(in_tmp / "multirun").items()
    ((same_name, bare),) = results(in_tmp / "without").items()
    assert name == same_name
    assert list(checked["memory"]) == ["step_bytes"]
    assert MB // 2 < checked["memory"]["step_bytes"] < 5 * MB
    assert bare["memory"] == {}
    assert without_clocks(checked) | {"memory": {}} == without_clocks(bare)
    saved = [torch.load(the_cell(in_tmp, output) / records.BEST_CHECKPOINT) for output in ("multirun", "without")]
    first, second = (each["state_dict"] for each in saved)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_module_that_cannot_be_followed_trains(
    run: Run, quick: list[str], in_tmp: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(memory_check, "training_step_bytes", fail)
    free(1000)
    assert run(*quick) == 0
    assert "not checked (NotImplementedError: no such kernel)" in (the_cell(in_tmp) / records.LOG).read_text()
    (body,) = results(in_tmp).values()
    assert body["memory"] == {}


def test_mixed_precision_takes_less(run: Run, quick: list[str], in_tmp: Path) -> None:
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        assert run(*quick, "data.batch_size=64", f"trainer.precision={precision}") == 0
    told = {body["environment"]["precision"]: body["memory"]["step_bytes"] for body in results(in_tmp).values()}
    assert 0.4 < told["bf16-true"] / told["32-true"] < told["bf16-mixed"] / told["32-true"] < 0.8


def test_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 7)
    assert free_memory(torch.device("cpu")) == 7
    assert free_memory(torch.device("meta")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_memory(torch.device("cuda", 0)) == 130


def test_nothing_told_before_a_fit() -> None:
    assert MemoryCheck().result_memory() == {}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("model/*.yaml")))
def test_every_architecture_can_be_followed(name: str, tiny_npz: Path, in_tmp: Path) -> None:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        words = [f"model={name}", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=8"]
        config = resolved(compose("config", words))
    data = build.make_data(config)
    sizes = {"image_shape": list(data.image_shape), "classes": data.classes}
    module = build.make_module(config, build.make_model(config, **{**sizes, "image_shape": data.image_shape}), sizes)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    assert training_step_bytes(module, next(iter(data.train_dataloader()))) > 4 * weights
