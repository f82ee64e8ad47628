"""The packages that plain PyTorch uses: what they load, what they export, and who imports from them."""

import ast

import pytest

from capsexp import PACKAGES
from tests.test_imports import FILES, loaded_by, modules_imported, sources_of_the_package

PLAIN_LOOP = """
import torch
from capsexp.models import CapsNet
sizes = {"image_shape": (1, 8, 8), "classes": 2, "kernel": 3, "dim": 4, "decoder": None}
make = lambda **widths: CapsNet(**sizes, **widths, routing=capsexp.routing.MaxMin)
images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 0, 1, 0, 1])
model = make(c1=4, c2=8)
capsexp.losses.margin_loss(model(images), labels).backward()
capsexp.accumulate(model, [(images, labels)], filter=capsexp.filters.Pearson())
capsexp.nn.set_inference(model, "folded")
capsexp.pruning.prune(model, capsexp.pruning.Chip(), 0.5, [images], make=make)
"""


def test_the_library_imports_neither_hydra_nor_lightning_nor_wandb() -> None:
    """In one fresh process, in which nothing is ever taken out of ``sys.modules``: all packages, then a loop."""
    foreign = ("hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "pandas", "pydantic", "sklearn", "rich")
    imports = "import capsexp\n" + "".join(f"import capsexp.{name}\n" for name in PACKAGES)
    assert loaded_by(imports + PLAIN_LOOP, *foreign, "torchmetrics") == ["torchmetrics"]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_exports_what_it_imports(name: str) -> None:
    tree = ast.parse(FILES[f"capsexp.{name}"].read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    (listed,) = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assert {alias.name for node in imports for alias in node.names} == set(listed)
    assert {node.module.rpartition(".")[0] for node in imports if node.module != "capsexp.types"} == {f"capsexp.{name}"}


def test_no_module_imports_from_a_library_package_as_a_whole() -> None:
    """A module imports from the module that defines a name, so that a package can import all its modules."""
    sources, packages = sources_of_the_package(), {f"capsexp.{name}" for name in PACKAGES}
    found = {
        name: modules_imported(text, name, package, sources) & packages for name, (text, package) in sources.items()
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
