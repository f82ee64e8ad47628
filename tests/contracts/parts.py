"""Everything of ``conf/`` and of the packages that a contract tries: found by itself, made, and given something."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics import Metric

from capsexp import build, resolvers
from capsexp.lightning_modules.autoencoder import AutoencoderModule
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.metrics.coupling import ClassMean, ColumnCorrelation, FirstColumns, MeanCoupling
from capsexp.metrics.coupling_dynamics import CouplingDynamics
from capsexp.metrics.dead_capsules import DeadCapsules
from capsexp.metrics.kernel_similarity import KernelSimilarity
from capsexp.metrics.running import RunningMean
from capsexp.pruning.base import Criterion
from capsexp.sweep.cells import resolved

META = torch.device("meta")

CONF = Path(__file__).parents[2] / "conf"
BATCH, CLASSES, SHAPE = 6, 10, (1, 28, 28)
SIZES = {"image_shape": SHAPE, "classes": CLASSES}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in CONF.glob(f"{group}/*.yaml"))


@cache
def composed(*overrides: str) -> dict[str, Any]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return resolved(compose("config", list(overrides)))


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(each.name)


def classes_of(package: ModuleType, base: type) -> list[type]:
    """The public classes that a package defines, without the base."""
    found = [value for module in modules_of(package) for value in vars(module).values() if inspect.isclass(value)]
    own = {each for each in found if issubclass(each, base) and each.__module__.startswith(f"{package.__name__}.")}
    return sorted((each for each in own if not each.__name__.startswith("_")), key=lambda each: each.__name__)


# -- networks: every model x routing x loss ---------------------------------------------------------------------------

WIDER = {"deep_capsnet": ["model.depth=1"], "sr_capsnet": ["model.backbone.blocks=[1,1,1]"]}
"""Overrides without which a part of a model would not be there, or would be there many times."""

TASKS: Mapping[type[BaseModule], tuple[Callable[[Any], None], ...]] = {
    ClassifierModule: (lambda _: None,),
    CapsNetModule: (lambda _: None,),
    AutoencoderModule: (
        lambda _: None,
        lambda module: module.only("reconstruct"),
        lambda module: module.only("classify"),
    ),
}
"""What each module can be told to train."""


def fitting(model: dict[str, Any]) -> dict[str, Any]:
    """The model's config with the head, loss and class capsules that its routing needs."""
    routing = get_class(model["routing"]["_target_"])
    if routing.activation == "none":
        model |= {"head": "linear"}
    loss = "cross_entropy" if model["head"] == "linear" else LOSSES[routing.activation]
    poses = {} if routing.poses_optional and model["head"] != "linear" else {"dim_class": model["dim_class"] or 16}
    primary = model.get("primary")
    if isinstance(primary, dict) and not routing.needs_activations:
        model |= {"primary": {**primary, "activation": "length"}}
    return model | poses | {"module": {**model["module"], "loss": loss}}


LOSSES = {"length": "margin", "share": "nll", "probability": "spread"}


@dataclass(frozen=True)
class Case:
    """A model of a config file, how it routes, and what of its losses it is trained by."""

    model: str
    routing: str | None = None
    task: int = 0
    correlated: bool = False
    concurrent: bool = False

    @property
    def config(self) -> dict[str, Any]:
        config = composed(f"model={self.model}", *WIDER.get(self.model, []))
        if self.routing is None:
            return config
        routing = OmegaConf.to_container(OmegaConf.load(CONF / "routing" / f"{self.routing}.yaml"))
        model = config["model"] | {"routing": routing} | ({"concurrent": True} if self.concurrent else {})
        return {**config, "model": fitting(model), "routing": routing}

    def build(self, device: torch.device = META) -> BaseModule:
        """Its module on this device."""
        with device:
            model = build.make_model(self.config, **SIZES)
            module = build.make_module(self.config, model, {"image_shape": list(SHAPE), "classes": CLASSES})
            assert type(module) in TASKS, f"{type(module).__name__} needs a line in TASKS: what can it train?"
            TASKS[type(module)][self.task](module)
            if self.correlated:
                module.reward_correlation(0.01)
        return module.to(device)


@cache
def cases(model: str) -> list[Case]:
    """Every routing; with a backbone of its own, whose layers are those of the others, the model's and dynamic."""
    config = composed(f"model={model}")["model"]
    routings: list[Any] = names("routing") if "routing" in config else [None]
    if "backbone" in config and "layers" in config:
        routings = ["dynamic", config["routing"]["_target_"].split(".")[-2]]
    found = []
    for routing in routings:
        module = Case(model, routing).build()
        found += [Case(model, routing, task) for task in range(len(TASKS[type(module)]))]
        if module.model.channel_layers():  # type: ignore[operator, union-attr]
            found.append(Case(model, routing, correlated=True))
        if config.get("concurrent") is not None and hasattr(get_class(routed_by(routing)), "one_round"):
            found.append(Case(model, routing, concurrent=True))
    return found


def routed_by(routing: str) -> str:
    """The class of a config file."""
    return str(OmegaConf.load(CONF / "routing" / f"{routing}.yaml")["_target_"])


# -- metrics ----------------------------------------------------------------------------------------------------------


class Draw(Protocol):
    """Makes tensors of given sizes."""

    def numbers(self, *shape: int) -> Tensor: ...

    def labels(self, *shape: int) -> Tensor: ...

    def flags(self, *shape: int) -> Tensor: ...


Update = Callable[[Draw], tuple[Any, ...]]
"""What an update of a metric is given."""

I, J = 12, 10  # noqa: E741 - the legend's letter for children

UPDATES: Mapping[type[Metric], tuple[Callable[[], Metric], tuple[Update, ...]]] = {
    ClassMean: (
        lambda: ClassMean(CLASSES, J, I),
        (
            lambda draw: (draw.numbers(BATCH, J, I), draw.labels(BATCH)),
            lambda draw: (draw.numbers(BATCH, J, I), draw.labels(BATCH), draw.flags(BATCH)),
        ),
    ),
    ColumnCorrelation: (
        lambda: ColumnCorrelation(CLASSES, I),
        (lambda draw: (draw.numbers(BATCH, I), draw.labels(BATCH)),),
    ),
    CouplingDynamics: (
        lambda: CouplingDynamics(J, I),
        (
            lambda draw: (draw.numbers(BATCH, J, I).softmax(1), draw.numbers(BATCH, I).abs()),
            lambda draw: (draw.numbers(BATCH, J, I).softmax(1), draw.numbers(BATCH, I).abs(), draw.flags(BATCH, I)),
        ),
    ),
    DeadCapsules: (DeadCapsules, (lambda draw: (draw.numbers(BATCH, 3, 4, 5, 5),),)),
    FirstColumns: (
        lambda: FirstColumns(2 * BATCH - 1, I),
        (lambda draw: (draw.numbers(BATCH, I), draw.labels(BATCH)),),
    ),
    KernelSimilarity: (KernelSimilarity, (lambda draw: (draw.numbers(7, 3, 3, 3),),)),
    MeanCoupling: (
        lambda: MeanCoupling(J, I),
        (lambda draw: (draw.numbers(BATCH, J, I),), lambda draw: (draw.numbers(BATCH, J, I), draw.flags(BATCH, I))),
    ),
    RunningMean: (RunningMean, (lambda draw: (draw.numbers(), BATCH),)),
}
"""How each metric is made, and what its updates are given."""


# -- criteria ---------------------------------------------------------------------------------------------------------


@cache
def criterion(name: str) -> Criterion:
    own = {"_target_": OmegaConf.load(CONF / "pruning" / f"{name}.yaml")["_target_"]}
    made = instantiate(own)
    assert isinstance(made, Criterion)
    return made
