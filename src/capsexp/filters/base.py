"""What every filter of couplings is."""

from abc import ABC, abstractmethod

from torch import Tensor


class Filter(ABC):
    """Chooses, class by class, the training images whose couplings are accumulated: Zhao et al. (2019), appendix A.3.

    It is shown the ground-truth columns (an image's couplings with the capsule of its own class) of all training images
    ``looks`` times, in the same order each time, and then asked batch by batch which to keep.  What it remembers must
    not grow with the number of images, or by no more than a number an image.
    """

    looks: int = 0
    """How often it has to see all training images before it can choose."""

    def reset(self, classes: int, children: int) -> None:  # noqa: B027 - one that looks at nothing forgets nothing
        """Forget everything; what follows is of ``classes`` K and columns of ``children`` I numbers."""

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:  # noqa: B027
        """Look at a batch.

        Args:
            columns_BI: ground-truth columns, on the device of the network.
            labels_B: int64, the images' classes.
        """

    def end_look(self) -> None:  # noqa: B027
        """All training images have been seen once more."""

    @abstractmethod
    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """Which images of a batch to accumulate, bool (B,); at least one of every class over all batches."""
