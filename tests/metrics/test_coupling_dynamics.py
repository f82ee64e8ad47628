"""Bonding, dynamics and vibrance against the numbers of the authors' code and against a plain reference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.metrics.coupling_dynamics import CouplingDynamics, Dynamics
from tests.references import coupling_dynamics as reference

GOLDEN = Path(__file__).parents[1] / "golden" / "routing" / "mitterreiter_metrics.npz"


def streamed(coupling_NJI: Tensor, lengths_NI: Tensor, there_NI: Tensor | None, size: int) -> Dynamics:
    metric = CouplingDynamics(*coupling_NJI.shape[1:])
    for start in range(0, len(coupling_NJI), size):
        part = slice(start, start + size)
        metric.update(coupling_NJI[part], lengths_NI[part], None if there_NI is None else there_NI[part])
    found: Dynamics = metric.compute()
    return found


@pytest.mark.parametrize("size", [40, 13, 1])
def test_the_numbers_are_those_of_the_authors_code(size: int) -> None:
    golden = np.load(GOLDEN)
    coupling = torch.from_numpy(golden["couplings"]).transpose(1, 2)
    found = streamed(coupling, torch.from_numpy(golden["capsules"]).norm(dim=2), None, size)
    pairs = {
        "dead": found.dead,
        "inactive_rate": found.inactive_rate,
        "mean_max_active": found.mean_max,
        "std_active": found.std.T,
        "bonding": found.bonding,
        "dynamics": found.dynamics,
        "vibrance": found.vibrance,
        "activation_coupling_correlation": found.correlation,
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(value, np.squeeze(golden[name]), rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("masked", [False, True])
def test_any_division_into_batches_is_the_reference(masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    coupling = (3 * torch.randn(60, 5, 9, generator=generator, dtype=torch.float64)).softmax(1)
    coupling[:, :, 2] = 0.2  # a child that does not choose
    lengths = torch.rand(60, 9, generator=generator, dtype=torch.float64)
    lengths[:, 4] *= 1e-3  # a dead one
    there = torch.rand(60, 9, generator=generator) < 0.7 if masked else torch.ones(60, 9, dtype=torch.bool)
    expected = reference.dynamics(coupling.numpy(), lengths.numpy(), there.numpy())
    assert expected["inactive_rate"][2] == 1  # type: ignore[index]
    for size in (60, 7):
        found = streamed(coupling, lengths, there if masked else None, size)
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(found, name), value, rtol=0, atol=1e-10, err_msg=name)


def test_what_does_not_exist_does_not_count() -> None:
    coupling, lengths = torch.full((4, 2, 3), 0.5), torch.ones(4, 3)
    coupling[:, 0, 1], there = 0.9, torch.tensor([True, True, False]).expand(4, 3)
    odd = torch.where(there[:, None], coupling, torch.nan)
    found = streamed(odd, torch.where(there, lengths, torch.nan), there, 4)
    assert found.vibrance.active == 0.5
    assert found.bonding == pytest.approx(0.9)


def test_other_shapes_and_a_single_parent_are_refused() -> None:
    with pytest.raises(ConfigError, match="coupling must be"):
        CouplingDynamics(3, 2).update(torch.rand(4, 2, 3), torch.rand(4, 3))
    with pytest.raises(ConfigError, match="lengths must be"):
        CouplingDynamics(3, 2).update(torch.rand(4, 3, 2), torch.rand(4, 3))
    with pytest.raises(ConfigError, match="parents must be"):
        CouplingDynamics(1, 2)
