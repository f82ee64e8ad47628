"""How far a drawn image is from the true one."""

from torch import Tensor


def reconstruction_loss(drawn_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared differences, summed over the pixels of an image and averaged over the batch: Sabour et al. (2017), 4.1.

    A network adds .0005 of it, which is .392 of the mean squared error where an image has 784 pixels.

    Args:
        drawn_BCHW: what the decoder gave, in [0, 1].
        target_BCHW: the image itself in [0, 1], as it was cropped or shifted, before any normalising.
    """
    return (drawn_BCHW - target_BCHW).square().flatten(1).sum(1).mean()
