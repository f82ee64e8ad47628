"""What an installed package holds: the code, the configs, and a command that works from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
