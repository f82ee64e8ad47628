"""What an installed package holds: the code, the configs, and commands that work from any folder."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.analysis.own_figure import dots

ROOT = Path(__file__).parents[1]
BUILD = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*BUILD, str(folder), str(ROOT)], check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith("capsexp-")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def files(folder: Path, *endings: str) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in paths if not endings or path.suffix in endings}


def test_holds_code_and_configs_and_nothing_else(unpacked: Path) -> None:
    metadata = {path.name for path in unpacked.glob("capsexp-*.dist-info")}
    assert {path.name for path in unpacked.iterdir()} == {"capsexp", "hydra_plugins"} | metadata
    assert len(metadata) == 1
    found = files(unpacked / "capsexp")
    configs = {name for name in found if name.startswith("conf/")}
    assert "conf/config.yaml" in configs
    assert configs == {f"conf/{name}" for name in files(ROOT / "conf")}
    assert found - configs == files(ROOT / "src" / "capsexp")
    assert files(unpacked / "hydra_plugins") == files(ROOT / "src" / "hydra_plugins")


def test_metadata_names_the_command_and_the_licence(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("capsexp-*.dist-info")
    assert "capsexp = capsexp.cli:entry" in (metadata / "entry_points.txt").read_text()
    assert (metadata / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    version = (metadata / "METADATA").read_text().split("\nVersion: ")[1].split("\n")[0]
    assert f'__version__ = "{version}"' in (unpacked / "capsexp" / "__init__.py").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_runs_from_a_foreign_folder_with_its_own_configs(unpacked: Path, tmp_path: Path) -> None:
    own = unpacked / "capsexp" / "conf" / "model" / "only_here.yaml"
    own.write_text("_target_: only.Here\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAPSEXP_")}
    done = subprocess.run(
        [sys.executable, "-m", "capsexp", "model=only_here", "--cfg", "job"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    own.unlink()
    assert "_target_: only.Here" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


# -- a project of one's own -------------------------------------------------------------------------------------------

SMALL = ["data.source.count=60", "model.c1=4", "model.c2=8", "trainer.max_epochs=1", "threads=1"]
NAME = "far_project"


@pytest.fixture(scope="module")
def python(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel; the other libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=100)
    executable = folder / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(site) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = unpacked.parent.glob("*.whl")
    install = [str(executable), "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
    return executable


def output(python: Path, folder: Path, *words: str, code: int = 0, path: str = "") -> str:
    """What a command prints in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CAPSEXP_", "PYTHON"))}
    done = subprocess.run(
        [str(python), "-m", *words],
        cwd=folder,
        env={**kept, **({"PYTHONPATH": path} if path else {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_project_of_ones_own_runs_with_an_installed_wheel(python: Path, tmp_path: Path) -> None:
    output(python, tmp_path, "capsexp.new", NAME)
    project = tmp_path / NAME
    assert "4 passed" in output(python, project, "pytest", "-q", "-p", "no:cacheprovider")
    (project / NAME / "dots.py").write_text(dots(f"{NAME}.dots"))
    with (project / "conf" / "experiment" / f"{NAME}.yaml").open("a") as experiment:
        experiment.write(f"    - {{kind: {NAME}.dots, name: own, metric: test/acc}}\n")
    options = output(python, project, "capsexp", "--config-dir", "conf", "--help")
    assert f"routing: dynamic, {NAME}, fixed" in " ".join(options.split())

    asked = [f"+experiment={NAME}", *SMALL, f"routing=dynamic,{NAME}", "seed=0", "logger.wandb.mode=disabled", "-m"]
    sweep = [*asked, "hydra.launcher.max_cells=2"]
    assert "2 pending; to run: 2" in output(python, project, "capsexp.plan", "--config-dir", "conf", *sweep)
    output(python, project, "capsexp", "--config-dir", "conf", *sweep)
    cells = [json.loads(path.read_text()) for path in (project / "multirun" / NAME).glob("*/status.json")]
    assert [cell["state"] for cell in cells] == ["done", "done"]
    assert len({cell["pid"] for cell in cells}) == 2, "two workers"

    assert "--trust" in output(python, project, "capsexp.report", f"multirun/{NAME}", code=2)
    output(python, project, "capsexp.report", f"multirun/{NAME}", "--trust")
    assert (project / "multirun" / NAME / "report" / "own.png").is_file()

    elsewhere = [f"hydra.searchpath=[file://{project}/conf]", *sweep, f"paths.output={project}/multirun"]
    assert "now: 2 done" in output(python, tmp_path, "capsexp.plan", *elsewhere, path=str(project))
