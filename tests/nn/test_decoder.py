import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.nn.decoder import Decoder

B, K, E, SHAPE = 4, 5, 3, (2, 3, 4)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(K, E, SHAPE, hidden=(7, 9))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, K, E, generator=generator), torch.tensor([0, 4, 2, 2])


def others(shown_B: Tensor) -> Tensor:
    """True for every pose that is not shown, (B, K)."""
    other_BK = torch.ones(B, K, dtype=torch.bool)
    other_BK[torch.arange(B), shown_B] = False
    return other_BK


def test_draws_an_image_with_values_in_0_1() -> None:
    poses_BKE, shown_B = inputs()
    drawn = decoder()(100 * poses_BKE, shown_B)
    assert drawn.shape == (B, *SHAPE)
    assert drawn.dtype == torch.float32
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_only_the_shown_class_matters() -> None:
    made, (poses_BKE, shown_B) = decoder(), inputs()
    before = made(poses_BKE, shown_B)
    changed_BKE = poses_BKE.clone()
    changed_BKE[others(shown_B)] += 5
    assert torch.equal(made(changed_BKE, shown_B), before)
    for number, shown in enumerate(shown_B):
        moved_BKE = poses_BKE.clone()
        moved_BKE[number, shown] += 5
        after = made(moved_BKE, shown_B)
        differs_B = (after != before).flatten(1).any(1)
        assert differs_B.tolist() == [each == number for each in range(B)]


def test_the_same_pose_of_another_class_draws_another_image() -> None:
    poses_BKE = inputs()[0][:1, :1].expand(1, K, E)
    drawn = [decoder()(poses_BKE, torch.tensor([shown])) for shown in range(2)]
    assert not torch.allclose(*drawn)


def test_gradient_goes_to_the_shown_class_alone() -> None:
    poses_BKE, shown_B = inputs()
    decoder()(poses_BKE.requires_grad_(), shown_B).square().sum().backward()
    assert poses_BKE.grad is not None
    other_BK = others(shown_B)
    assert (poses_BKE.grad[other_BK] == 0).all()
    assert (poses_BKE.grad[~other_BK] != 0).all()


def test_layers() -> None:
    made = decoder()
    widths = [(each.in_features, each.out_features) for each in made.layers if isinstance(each, nn.Linear)]
    assert widths == [(15, 7), (7, 9), (9, 24)]
    assert [type(each) for each in made.layers if not isinstance(each, nn.Linear)] == [nn.ReLU, nn.ReLU, nn.Sigmoid]
    default = Decoder(10, 16, (1, 28, 28))
    assert sum(each.numel() for each in default.parameters()) == 160 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 784 + 784


def test_draws_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder()(*inputs()).dtype == torch.float32


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ([], r"^hidden must name the widths of at least one layer, got \[\]$"),
        ([8, 0], r"^hidden must be a whole number >= 1, got 0$"),
        ([2.5], r"^hidden must be a whole number >= 1, got 2.5$"),
    ],
)
def test_refuses(hidden: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Decoder(K, E, SHAPE, hidden=hidden)
