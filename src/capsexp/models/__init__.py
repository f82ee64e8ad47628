"""The architectures of the papers, as plain ``torch.nn`` modules that are sized by their arguments.

:class:`CapsNet` (Sabour et al. 2017), :class:`DeepCapsNet` (Sahu and Altahhan 2024), :class:`CNN`,
:class:`BaselineCNN` and :class:`Autoencoder` (Wang 2019).  :class:`Classifier` is their base class.
"""

from capsexp.models.autoencoder import Autoencoder
from capsexp.models.base import Classifier, count_parameters, count_weights
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet

__all__ = [
    "CNN",
    "Autoencoder",
    "BaselineCNN",
    "CapsNet",
    "Classifier",
    "DeepCapsNet",
    "count_parameters",
    "count_weights",
]
