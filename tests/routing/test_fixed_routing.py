from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.functional import squash
from capsexp.nn.votes import GivenVotes
from capsexp.routing.fixed import Fixed

I, J, E = 4, 3, 2  # noqa: E741 - the legend's letter for children


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def routing(coupling: Tensor | str | None = None) -> Fixed:
    return Fixed(children=I, parents=J, dim_in=5, dim_out=E, coupling=coupling)


def test_begins_uniform() -> None:
    assert torch.equal(routing().coupling_JI, torch.full((J, I), 1 / J))


def test_uses_the_matrix_for_every_image() -> None:
    matrix_JI, votes_BJEI = normal(J, I), normal(2, J, E, I, seed=1)
    output = routing(matrix_JI)(GivenVotes(votes_BJEI))
    assert torch.equal(output.coupling_BJI, matrix_JI.expand(2, J, I))
    expected_BJE = squash(torch.einsum("bjei,ji->bje", votes_BJEI, matrix_JI))
    torch.testing.assert_close(output.poses_BJE, expected_BJE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_reads_a_file(tmp_path: Path, dtype: type) -> None:
    matrix_JI = np.arange(J * I, dtype=dtype).reshape(J, I)
    np.save(tmp_path / "coupling.npy", matrix_JI)
    found = routing(str(tmp_path / "coupling.npy")).coupling_JI
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(matrix_JI).float())


def test_keeps_the_type_it_has() -> None:
    layer = routing().double()
    layer.set_coupling(normal(J, I))
    assert layer.coupling_JI.dtype == torch.float64
    assert torch.equal(layer.coupling_JI, normal(J, I).double())


def test_state_travels() -> None:
    first, second = routing(normal(J, I)), routing()
    assert list(first.state_dict()) == ["coupling_JI"]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.coupling_JI, normal(J, I))
    second.set_coupling(normal(J, I, seed=1))
    assert torch.equal(second.state_dict()["coupling_JI"], normal(J, I, seed=1))
    assert torch.equal(first.coupling_JI, normal(J, I))


def test_the_matrix_is_no_parameter() -> None:
    layer = routing(normal(J, I).requires_grad_())
    assert not list(layer.parameters())
    assert not layer.coupling_JI.requires_grad


def test_the_matrix_is_its_own() -> None:
    matrix_JI = normal(J, I)
    first, second = routing(matrix_JI), routing(matrix_JI)
    matrix_JI.zero_()
    assert torch.equal(first.coupling_JI, normal(J, I)), "what is done to the tensor later is not done to the routing"
    first.load_state_dict(routing().state_dict())
    assert torch.equal(second.coupling_JI, normal(J, I))


@pytest.mark.parametrize("shape", [(I, J), (J,), (1, J, I), (J, I + 1)])
def test_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^coupling must have the shape \(parents, children\) = \(3, 4\), got \("):
        routing(torch.ones(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite(value: float) -> None:
    matrix_JI = torch.ones(J, I)
    matrix_JI[1, 2] = value
    layer = routing()
    for refuse in (layer.set_coupling, routing):
        with pytest.raises(ConfigError, match=r"^coupling must hold finite numbers, got 'NaN or infinity'$"):
            refuse(matrix_JI)
    assert torch.equal(layer.coupling_JI, torch.full((J, I), 1 / J)), "the old matrix stays"


def write(path: Path, kind: str) -> Path:
    """A file that holds no matrix, or none at all."""
    if kind == "text":
        path.write_text("1 2 3\n")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "archive":
        np.savez(path.with_suffix(".npz"), matrix=np.ones((J, I)))
        path = path.with_suffix(".npz")
    elif kind == "objects":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "words":
        np.save(path, np.array([["a"] * I] * J))
    elif kind == "cut off":
        np.save(path, np.ones((J, I)))
        path.write_bytes(path.read_bytes()[:-8])
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder", "archive", "objects", "words", "cut off"])
def test_refuses_a_file_without_a_matrix(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "coupling.npy", kind)
    with pytest.raises(ConfigError, match=r"^coupling must name a .npy file with a matrix \(") as caught:
        routing(str(path))
    assert (caught.value.key, caught.value.value) == ("coupling", str(path))


def test_refuses_a_file_with_another_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "coupling.npy", np.ones((I, J)))
    with pytest.raises(ConfigError, match=r"^coupling must have the shape"):
        routing(str(tmp_path / "coupling.npy"))
