"""Class scores from poses."""

import torch

from capsexp.nn.head import SharedScore


def test_every_class_is_scored_by_the_same_numbers() -> None:
    head = SharedScore(3)
    assert (head.weight_E.abs().max() <= 3**-0.5, head.bias.abs() <= 3**-0.5) == (True, True)
    with torch.no_grad():
        head.weight_E.copy_(torch.tensor([1.0, 10.0, 100.0]))
        head.bias.fill_(0.5)
    poses_BKE = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    torch.testing.assert_close(head(poses_BKE), torch.tensor([[321.5, 654.5]]))
