"""The base class of all filters of couplings."""

from abc import ABC, abstractmethod

from torch import Tensor


class Filter(ABC):
    """The choice, class by class, of the training images whose couplings are accumulated.

    Source: Zhao et al. (2019), appendix A.3.  :meth:`observe` gets the ground-truth columns (the couplings of an image
    with the capsule of its own class) of all training images ``looks`` times, in the same order each time.  Then
    :meth:`keep` chooses images, batch by batch.  The state of a filter must not grow with the number of images, or by
    at most one number per image.

    Example:
        A filter of one's own, which keeps images with a strong coupling:

        >>> class Strong(Filter):
        ...     def keep(self, columns_BI, labels_B):
        ...         return columns_BI.amax(1) > 0.5
        >>> Strong().keep(torch.tensor([[0.1, 0.9], [0.4, 0.3]]), torch.tensor([0, 1]))
        tensor([ True, False])
    """

    looks: int = 0
    """Number of passes over all training images before the choice."""

    def reset(self, classes: int, children: int) -> None:  # noqa: B027 - a filter without state has nothing to reset
        """Reset the state, for ``classes`` K and columns of ``children`` I numbers."""

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:  # noqa: B027
        """Observe a batch.

        Args:
            columns_BI: ground-truth columns, on the device of the network.
            labels_B: int64, the classes of the images.
        """

    def end_look(self) -> None:  # noqa: B027
        """End a pass over all training images."""

    @abstractmethod
    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """Mask of the images of a batch to accumulate, bool (B,); over all batches at least one image per class."""
