"""The architectures of the papers, as plain ``torch.nn`` modules that are sized by their arguments.

:class:`CapsNet` (Sabour et al. 2017), :class:`DeepCapsNet` (Sahu and Altahhan 2024), :class:`CNN`,
:class:`BaselineCNN` and :class:`Autoencoder` (Wang 2019), and :class:`LayeredCapsNet` of a :class:`Backbone`
(:class:`Plain`, :class:`ResNet`) and any capsule layers.  :class:`Classifier` is their base class,
:class:`CapsuleClassifier` that of networks with class capsules.
"""

from capsexp.models.autoencoder import Autoencoder
from capsexp.models.backbones import Backbone, Plain, ResNet
from capsexp.models.base import CapsuleClassifier, Classifier, count_parameters, count_weights
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.models.layered_capsnet import LayeredCapsNet

__all__ = [
    "CNN",
    "Autoencoder",
    "Backbone",
    "BaselineCNN",
    "CapsNet",
    "CapsuleClassifier",
    "Classifier",
    "DeepCapsNet",
    "LayeredCapsNet",
    "Plain",
    "ResNet",
    "count_parameters",
    "count_weights",
]
