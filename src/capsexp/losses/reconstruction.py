"""The reconstruction loss of capsule networks."""

from torch import Tensor


def reconstruction_loss(drawn_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared differences, summed over the pixels of an image and averaged over the batch: Sabour et al. (2017), 4.1.

    The total loss has .0005 times this sum, which is .392 times the mean squared error for images of 784 pixels.

    Args:
        drawn_BCHW: the output of the decoder, in [0, 1].
        target_BCHW: the image in [0, 1], after cropping or shifting and before normalisation.

    Example:
        >>> reconstruction_loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
        tensor(16.)
    """
    return (drawn_BCHW - target_BCHW).square().flatten(1).sum(1).mean()
