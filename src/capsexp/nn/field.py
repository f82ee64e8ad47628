"""The field of a child: the parents of all windows that hold it, which compete for it."""

import torch
from torch import Tensor


class Field:
    """The windows of a convolutional capsule layer, and the places of a grid that they hold.

    A child at one place of the grid lies in several windows.  In the routings of Hinton et al. (2018) and of Ribeiro et
    al. (2020) its assignments add up to 1 over the parents of all of them.

    Args:
        place_LP: the place of the grid, from 0, that stands at each position of each window; ``places`` in the padding.
        places: number of places of the grid.

    Example:
        >>> field = Field.of_grid(height=1, width=3, kernel=1, stride=1, padding=0)  # three windows of one place
        >>> field.windows, field.positions, field.windows_of_child(types=2)
        (3, 1, tensor([[1., 1.],
                [1., 1.],
                [1., 1.]]))
    """

    def __init__(self, place_LP: Tensor, places: int) -> None:
        self.place_LP, self.places = place_LP, places

    @classmethod
    def of_grid(
        cls, height: int, width: int, kernel: int, stride: int, padding: int, device: torch.device | str = "cpu"
    ) -> "Field":
        """The field of square windows on a grid, both row by row, as :func:`torch.nn.functional.unfold` orders them."""
        rows_LP = _along(height, kernel, stride, padding, device)[:, None, :, None]
        columns_LP = _along(width, kernel, stride, padding, device)[None, :, None, :]
        inside_LP = (rows_LP >= 0) & (rows_LP < height) & (columns_LP >= 0) & (columns_LP < width)
        place_LP = (rows_LP * width + columns_LP).where(inside_LP, height * width)
        return cls(place_LP.reshape(-1, kernel**2), height * width)

    @property
    def windows(self) -> int:
        """L, the windows of an image."""
        return self.place_LP.shape[0]

    @property
    def positions(self) -> int:
        """P, the positions in a window."""
        return self.place_LP.shape[1]

    def share(self, logits_BJI: Tensor) -> Tensor:
        """The softmax over the parents of all windows that hold a child, without overflow for any finite logits.

        Args:
            logits_BJI: (B, J, I), all windows of an image one after the other, and in each the positions of a type.

        Returns:
            (B, J, I).  Over the parents and windows of a child they add up to 1.  What stands in the padding shares
            among itself: finite numbers without a meaning.
        """
        rows, _, children = logits_BJI.shape
        images, types = rows // self.windows, children // self.positions
        own_BI = logits_BJI.logsumexp(1)
        own_ATLP = own_BI.view(images, self.windows, types, self.positions).transpose(1, 2)
        own_AX = own_ATLP.reshape(images * types, self.place_LP.numel())
        place_AX = self.place_LP.flatten().expand_as(own_AX)
        shape = images * types, self.places + 1
        with torch.no_grad():
            lowest = torch.finfo(own_AX.dtype).min
            largest_AY = own_AX.new_full(shape, lowest).scatter_reduce(1, place_AX, own_AX, "amax")
        above_AX = (own_AX - largest_AY.gather(1, place_AX)).exp()
        sum_AY = above_AX.new_zeros(shape).scatter_add(1, place_AX, above_AX)
        part_AX = above_AX / sum_AY.gather(1, place_AX)
        part_BI = part_AX.view(images, types, self.windows, self.positions).transpose(1, 2).reshape(rows, children)
        return (logits_BJI - own_BI[:, None]).exp() * part_BI[:, None]

    def windows_of_child(self, types: int) -> Tensor:
        """The number of windows that hold each child, (L, T * P); as many as the padding fills, for the padding."""
        place_X = self.place_LP.flatten()
        counts_Y = torch.zeros(self.places + 1, device=place_X.device)
        counts_Y = counts_Y.scatter_add(0, place_X, torch.ones_like(place_X, dtype=counts_Y.dtype))
        return counts_Y[self.place_LP].repeat(1, types)


def _along(side: int, kernel: int, stride: int, padding: int, device: torch.device | str) -> Tensor:
    """The rows (or columns) of the grid that the windows hold, (windows, kernel); outside of it in the padding."""
    first_L = torch.arange(0, side + 2 * padding - kernel + 1, stride, device=device) - padding
    return first_L[:, None] + torch.arange(kernel, device=device)
