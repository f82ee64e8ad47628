"""Names, folders, terminals and environment variables as people have them: what they may be, and what they do."""

import io
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from capsexp import records, text
from capsexp.analysis.formats import to_csv, to_latex
from capsexp.analysis.tables import Table
from capsexp.sweep.rerun import given_rerun
from capsexp.tracking import guard
from capsexp.tracking.sync import find_runs

Run = Callable[..., int]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command that was refused."""
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert told.startswith("capsexp: error: ")
    return told


# -- names and folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [[], ["seed=0,1", "-m"]])
@pytest.mark.parametrize("name", ["..", "../../x", ".stages", "/tmp/x", "null", "[a,b]", "''", "a//b", "{a:1}"])
def test_a_name_that_leads_elsewhere_is_refused(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], name: str, many: list[str]
) -> None:
    words = [word for word in quick if not word.startswith("sweep.name")]
    assert run(*words, f"sweep.name={name}", *many) == 2
    assert "sweep.name must be a text whose parts between slashes begin with" in one_line(capsys)
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("many", [[], ["seed=0,1", "-m"]])
@pytest.mark.parametrize("output", ["''", "'~/runs'", "null"])
def test_an_output_that_is_no_folder_is_refused(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], output: str, many: list[str]
) -> None:
    assert run(*quick, f"paths.output={output}", *many) == 2
    assert "paths.output must be" in one_line(capsys)
    assert list(in_tmp.iterdir()) == []


def test_a_date_is_the_name_of_a_sweep(run: Run, quick: list[str], in_tmp: Path) -> None:
    words = [word for word in quick if not word.startswith("sweep.name")]
    assert run(*words, "sweep.name=20240501", "trainer.max_epochs=1") == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "20240501").values()
    assert yaml.safe_load((cell / records.CONFIG).read_text())["sweep"]["name"] == "20240501"


@pytest.mark.parametrize(
    ("word", "value", "expected"),
    [
        ("sweep.rerun=6e95606307", float("inf"), ["6e95606307"]),
        ("sweep.rerun=0123456789", 123456789, ["0123456789"]),
        ("sweep.rerun=[1e10,ab12345678]", [1e10, "ab12345678"], ["1e10", "ab12345678"]),
        ("sweep.rerun=null", None, []),
        ("sweep.rerun=[failed,stale]", ["failed", "stale"], ["failed", "stale"]),
    ],
)
def test_an_id_that_looks_like_a_number_is_an_id(word: str, value: Any, expected: list[str]) -> None:
    assert given_rerun(value, OmegaConf.create({"overrides": {"task": ["model.c2=4", word]}})) == expected


def test_directory_names_fit_whatever_the_letters() -> None:
    name = records.cell_name({"a": "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 200}, "0123456789")
    assert len(name.encode()) <= 111
    assert name.endswith("\N{CJK UNIFIED IDEOGRAPH-4E00}-0123456789")


def test_a_relative_file_is_found_where_the_command_was_given(run: Run, quick: list[str], in_tmp: Path) -> None:
    path = next(word for word in quick if word.startswith("data.path=")).partition("=")[2]
    (in_tmp / "own.npz").write_bytes(Path(path).read_bytes())
    words = [word for word in quick if not word.startswith("data.path=")]
    assert run(*words, "data.path=own.npz", "hydra.job.chdir=true", "trainer.max_epochs=1") == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    assert not (cell / "multirun").exists()


def test_a_command_names_the_folder_of_ones_own_configs(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "own" / "experiment").mkdir(parents=True)
    (in_tmp / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nsweep: {name: mine}\n")
    words = [word for word in quick if not word.startswith("sweep.name")]
    own = ["--config-dir", str(in_tmp / "own"), "+experiment=mine"]
    assert run(*own, *words, "seed=0,1", "trainer.max_epochs=1", "-m") == 0
    from capsexp.status.__main__ import main

    capsys.readouterr()
    assert main([str(in_tmp / "multirun" / "mine")]) == 0
    assert f"python -m capsexp --config-dir {in_tmp / 'own'} " in capsys.readouterr().out


# -- groups and the trainer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "key"),
    [
        *((word, word.strip("~").partition("=")[0]) for word in ("data=[1,2]", "model=[1,2]", "callbacks=[]")),
        *((word, word.strip("~").partition("=")[0]) for word in ("~callbacks", "~recipe", "~seed", "~trainer")),
        ("model._target_=null", "model._target_"),
        ("callbacks.peak=abc", "callbacks.peak"),
        ("model.module=3", "model.module"),
        ("logger.wandb=abc", "logger.wandb"),
        ("paths.stages=null", "paths.stages"),
        ("hydra.sweeper=null", "hydra/sweeper"),
        ("trainer.log_every_n_steps=abc", "trainer.log_every_n_steps"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val"),
        ("+trainer.accumulate_grad_batches=1.5", "trainer.accumulate_grad_batches"),
        ("+trainer.limit_val_batches=0", "trainer.limit_val_batches"),
        ("+trainer.check_val_every_n_epoch=3", "trainer.check_val_every_n_epoch"),
    ],
)
def test_a_group_or_setting_of_another_shape_is_one_line(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], word: str, key: str
) -> None:
    multirun = ["-m"] if word.startswith("hydra") else []
    others = [each for each in quick if not each.startswith(f"{word.strip('~').partition('=')[0]}.")]
    assert run(*others, word, *multirun) == 2
    assert re.match(rf"capsexp: error: {re.escape(key)} must (be|leave) ", one_line(capsys))


# -- terminals and variables ------------------------------------------------------------------------------------------


def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    text.prepare_output()
    sys.stdout.write("gr\N{LATIN SMALL LETTER O WITH DIAERESIS}\N{LATIN SMALL LETTER SHARP S}er")
    sys.stdout.flush()
    assert written.getvalue() == rb"gr\xf6\xdfer"
    assert sys.stderr.write("nothing reads this") == 18
    assert os.environ["MPLBACKEND"] == "agg"
    sys.stderr.close()


def test_variables_of_one_run_do_not_make_all_cells_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(guard.process, "warn_once", warned.append)
    monkeypatch.setenv("WANDB_RUN_ID", "efgh5678")
    assert guard.importable()
    assert "WANDB_RUN_ID" not in os.environ
    assert warned == ["WANDB_RUN_ID is not used: each cell has a run of its own"]


def test_links_are_followed_to_the_runs(tmp_path: Path) -> None:
    run = tmp_path / "disk" / "s" / "cell-0123456789" / "wandb" / "offline-run-20260101_000000-x"
    run.mkdir(parents=True)
    (tmp_path / "multirun").mkdir()
    (tmp_path / "multirun" / "s").symlink_to(tmp_path / "disk" / "s")
    (tmp_path / "disk" / "s" / "round").symlink_to(tmp_path / "disk" / "s")
    found = [path for runs in find_runs([tmp_path / "multirun"]).values() for path in runs]
    assert [path.resolve() for path in found] == [run]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    records.write_text(pipe, "content")
    reader.join(30)
    assert got == ["content"]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        records.write_text(tmp_path / "file", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def table(*rows: list[str]) -> Table:
    return Table("t", "Caption.", ["a", "b"], list(rows), ["a", "b"], [list(row) for row in rows], [False] * len(rows))


def test_a_formula_is_no_formula_in_a_spreadsheet() -> None:
    made = to_csv(table(["=1+1", "-0.5"], ["@x", "-x"], ["+1e3", "[1, 2]"]))
    assert made == "a,b\n'=1+1,-0.5\n'@x,'-x\n+1e3,\"[1, 2]\"\n"


def test_a_row_is_no_argument_of_the_line_above_in_latex() -> None:
    lines = to_latex(table(["[7, 5]", "1"], ["*", "2"])).splitlines()
    assert r"{}[7, 5] & 1 \\" in lines
    assert r"{}* & 2 \\" in lines
