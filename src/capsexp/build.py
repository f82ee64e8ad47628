"""From a resolved config to objects: the only caller of Hydra's ``instantiate``."""

import functools
import platform
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import nn

import capsexp
from capsexp import hardware, records, tracking
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError, require, require_int
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.models.base import Classifier
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.recipes.base import Factories, Outcome, Recipe
from capsexp.recipes.examine import examine
from capsexp.recipes.stages import StageMemo
from capsexp.stacking import context

Config = dict[str, Any]

_ALONE = LightningEnvironment()
"""One process is all: a cluster's variables would promise others."""


def run(
    config: Config, directory: Path, *, in_sweep: bool = False, cell_id: str = "", axes: Config | None = None
) -> dict[str, Any]:
    """Do one cell's work.

    Args:
        config: the resolved config in plain Python.
        directory: the cell's directory; checkpoints, arrays and logs go there.
        in_sweep: whether the cell is one of many (no progress bar then).
        cell_id: the cell's id, which the Weights & Biases run carries.
        axes: the swept values.

    Returns:
        The body of ``result.json``.

    Raises:
        ConfigError: a value breaks a rule; the key is named as the user would override it.
    """
    config = records.present_targets(config)  # it may have been frozen by an older version
    threads = _set_threads(config["threads"])
    _check_name(config)
    about = tracking.About(config, directory, cell_id, axes or {})
    recipe = _make_recipe(config)
    with quiet_lightning():
        recipe.check(factories(config, directory))  # before a run is opened that would only wait
    with quiet_lightning(), tracking.wandb_run(about) as wandb_logger:
        outcome = recipe.run(factories(config, directory, wandb_logger, in_sweep=in_sweep))
        body = _result_body(config, outcome, threads) | _gpu_memory()
        tracking.summarise(wandb_logger, body, axes or {})
    _write_arrays(directory, outcome)
    return body


def factories(config: Config, directory: Path, logger: Any = False, *, in_sweep: bool = False) -> Factories:
    """The makers that a recipe works with; weights are drawn from ``seed`` when the architecture is made."""
    return Factories(
        directory=directory,
        make_data=functools.partial(make_data, config),
        make_model=functools.partial(make_model, config),
        make_module=functools.partial(make_module, config),
        make_trainer=functools.partial(make_trainer, config, directory, logger, in_sweep),
        stages=StageMemo(Path(config["paths"]["stages"]), functools.partial(_work_key, config)),
    )


def _make_recipe(config: Config) -> Recipe:
    """The recipe, with the parts that are groups of their own; made apart, so that an error names the part's group."""
    parts: Config = {}
    if "filter" in config:
        parts["filter"] = _make(config, "filter")
    if any(key in config["pruning"] for key in SELECTION):
        parts |= _pruning_parts(config)
    try:
        return cast("Recipe", _make(config, "recipe", **parts))
    except ConfigError as error:
        for part, key, recipes in PARTS:
            foreign = error.key == "recipe" and ("takes no arguments" in error.rule or f"'{part}'" in error.rule)
            require(not (part in parts and foreign), key, f"come with recipe={recipes}", config["recipe"]["_target_"])
        raise


PRUNES = "prune_and_retrain or max_depth"
PARTS = (
    ("filter", "filter", "accumulate, retrain or warm_start"),
    ("criterion", "pruning.ratio", PRUNES),
    ("selection", "pruning.ratio", PRUNES),
)
"""What a recipe may be made of: as it calls it, as the user does, and which recipes know it."""


def _check_name(config: Config) -> None:
    """A network's name that stands in reports must be that of the network."""
    name, model = config.get("study", {}).get("net"), config["model"]
    if name is not None and "capsules" in model:
        true = f"C{model['capsules']}D{model['dim']}"
        require(name == true, "study.net", f"be {true}, what model.capsules and model.dim say, or null", name)


SELECTION = ("ratio", "granularity", "rounding", "merge")
"""Keys of the pruning group that say how many channels go; all others are the criterion's."""


def _pruning_parts(config: Config) -> Config:
    amounts = {key: config["pruning"][key] for key in SELECTION if key in config["pruning"]}
    for key, value in amounts.items():
        rule = f"come with recipe={PRUNES} (in a walk, recipe.mode says whether channels are merged)"
        require("ratio" in amounts, f"pruning.{key}", rule, value)
    node = {"_target_": "capsexp.pruning.selection.Selection", **amounts}
    return {"criterion": _make(config, "pruning", SELECTION), "selection": _instantiate(node, "pruning", {})}


def make_data(config: Config) -> ImageDataModule:
    """The data module, with the augmentation and the seed of the cell."""
    augment = _make(config, "augment")
    return cast("ImageDataModule", _make(config, "data", augment=augment, seed=_seed(config)))


def make_model(config: Config, **sizes: Any) -> Classifier:
    """The architecture for data of these sizes, its weights drawn from ``seed``."""
    L.seed_everything(_seed(config), verbose=False)
    return cast("Classifier", _make(config, "model", without=("module",), **sizes))


def make_module(config: Config, model: nn.Module, sizes: Config) -> BaseModule:
    """The LightningModule that trains the architecture."""
    make_optimizer = _make(config, "optimizer", _partial_=True)
    try:
        make_optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        rule = f"be arguments that {config['optimizer']['_target_']} takes ({error})"
        raise ConfigError("optimizer", rule, _without_target(config["optimizer"])) from error
    parts = {"model": model, "make_optimizer": make_optimizer, "sizes": sizes}
    return cast("BaseModule", _instantiate(config["model"]["module"], "model.module", parts))


def make_trainer(
    config: Config,
    home: Path,
    logger: Any,
    in_sweep: bool,
    stage: str,
    *,
    directory: Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    without: Collection[str] = (),
    in_run: bool = True,
    **given: Any,
) -> L.Trainer:
    """A trainer with the callbacks of the config; see :class:`~capsexp.recipes.base.MakeTrainer`."""
    options = {**config["trainer"], **given}
    require_int("trainer.max_epochs", options["max_epochs"], 1)
    rule = "be 1: a cell's data lies on one device; run more cells at once instead"
    require(options["devices"] == 1, "trainer.devices", rule, options["devices"])
    progress = options.pop("progress")
    require(progress in ("auto", True, False), "trainer.progress", "be auto, true or false", progress)
    shown = sys.stdout.isatty() and not in_sweep if progress == "auto" else progress
    require(bool(config["callbacks"].get("history")), "callbacks.history", "be there: the result is read from it", None)
    _make(config, "pruning", SELECTION)  # before a callback holds it, so that an error names this group
    names = [name for name, entry in config["callbacks"].items() if entry and name not in without]
    own = [_instantiate(config["callbacks"][name], f"callbacks.{name}", {}) for name in names]
    fixed: dict[str, Any] = {
        "callbacks": [*own, *callbacks, *([RichProgressBar()] if shown else [])],
        "logger": _logger_of(logger, stage) if in_run else False,
        "default_root_dir": directory or home,
        "enable_checkpointing": True,
        "enable_progress_bar": shown,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "plugins": [_ALONE],
    }
    # Under `deterministic` torch fills fresh memory, though nothing reads it: some 3 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        return context.joined(L.Trainer(**options, **fixed), config)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        line = " ".join(str(error).split())
        raise ConfigError("trainer", f"be arguments that lightning.Trainer takes ({line})", options) from error


def _logger_of(logger: Any, stage: str) -> Any:
    """The cell's logger; what a later training logs has its stage's name in front, so that curves are not mixed."""
    return logger.of_stage(stage) if logger and LATER_FITS.fullmatch(stage) else logger or False


LATER_FITS = re.compile(r"retrain|ccm|pruned|deep|autoencode|walk|(base|scratch|deep)\d+")
"""Stages beside which a cell has another fit: later trainings of a network, and trials of a depth."""


# -- finished cells ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedRun:
    """A finished cell, back in memory.

    Attributes:
        config: its resolved config.
        result: the body of its ``result.json``.
        module: the LightningModule with the best weights, in evaluation mode on the CPU.
    """

    config: Config
    result: dict[str, Any]
    module: BaseModule

    def data(self) -> ImageDataModule:
        """The cell's data module, set up on the CPU.

        Raises:
            ConfigError: the data file has changed since.
        """
        data = make_data(self.config)
        now, then = data.summary()["sha256"], self.result["data"]["sha256"]
        require(now == then, "data.path", "hold the images that the cell was trained on", self.config["data"]["path"])
        return data

    def examine(self) -> dict[str, NDArray[np.generic]]:
        """What its couplings and class capsules say, see :func:`capsexp.recipes.examine.examine`.

        Raises:
            ConfigError: its network has no capsule layers, or the data file has changed since.
        """
        found = bool(capsule_layers(self.module.model))
        require(found, "run_dir", "hold a cell whose network has capsule layers", self.config["model"]["_target_"])
        options: dict[str, Any] = {key: self.config["trainer"][key] for key in ("accelerator", "precision")}
        options |= dict.fromkeys(
            ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
        )
        with quiet_lightning():
            arrays, _ = examine(self.module, self.data(), functools.partial(_examining, options))
        return arrays


def _examining(options: Config, callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(callbacks=callbacks, plugins=[_ALONE], **options)


def load_run(directory: str | Path) -> LoadedRun:
    """Load a finished cell from its directory, in any process, without Hydra's command line.

    Raises:
        ConfigError: the directory holds no finished cell.
    """
    directory = Path(directory)
    result = records.read_result(directory)
    require(
        result is not None, "run_dir", f"hold a finished cell ({records.RESULT} is missing or damaged)", str(directory)
    )
    assert result is not None
    config = records.present_targets(cast("Config", OmegaConf.to_container(OmegaConf.load(directory / records.CONFIG))))
    rule = "hold the finished cell's weights"
    require((directory / records.BEST_CHECKPOINT).is_file(), "run_dir", rule, str(directory))
    saved = torch.load(directory / records.BEST_CHECKPOINT, map_location="cpu", weights_only=True)
    sizes = saved["hyper_parameters"]["sizes"]
    if isinstance(config["model"].get("routing"), dict) and "coupling" in config["model"]["routing"]:
        config["model"]["routing"]["coupling"] = None  # the matrix is among the weights; its file may be gone
    with torch.random.fork_rng():  # torch's random numbers stay the caller's
        module = make_module(config, make_model(config, **sizes), sizes)
    module.load_state_dict(saved["state_dict"])
    set_inference(module.model, saved["hyper_parameters"].get("inference", "dynamic"))
    return LoadedRun(config, result, module.eval())


# -- helpers ----------------------------------------------------------------------------------------------------------


def _make(config: Config, group: str, without: tuple[str, ...] = (), **extra: Any) -> Any:
    require(isinstance(config[group], dict), group, "be a group of keys (choose one with group=option)", config[group])
    node = {key: value for key, value in config[group].items() if key not in without}
    return _instantiate(node, group, extra)


def _instantiate(node: Config, group: str, extra: dict[str, Any]) -> Any:
    """Instantiate ``node``; whatever its constructor complains of is told with the group's name before the key."""
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause.within(group) from error
        if "Error locating target" in str(error):
            rule = f"name something that can be imported ({cause})"
            raise ConfigError(f"{group}._target_", rule, node["_target_"]) from error
        if isinstance(cause, TypeError):
            line = " ".join(str(cause).split())
            raise ConfigError(
                group, f"be arguments that {node['_target_']} takes ({line})", _without_target(node)
            ) from error
        raise


def _without_target(node: Config) -> Config:
    return {key: value for key, value in node.items() if key != "_target_"}


def _seed(config: Config) -> int:
    return require_int("seed", config["seed"], 0, 2**32 - 1)


def _work_key(config: Config, without: Collection[str]) -> str:
    """The digest of a cell's work without some (dotted) keys of its config: equal ones give equal numbers."""
    kept = records.digested(config, _digest)
    for dotted in without:
        records.drop(kept, dotted)
    return f"{records.cell_id(kept, kept['data']['path'])}-v{records.NUMERICS_VERSION}"


def _digest(_: str, path: Path) -> str:
    stat = path.stat()
    return _file_digest(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _file_digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return records.file_sha256(path)


def _set_threads(threads: Any) -> int:
    torch.set_num_threads(hardware.cores() if threads == "auto" else require_int("threads", threads, 1))
    return torch.get_num_threads()


def _gpu_memory() -> dict[str, dict[str, int]]:
    """What the cell took of a GPU's memory at its peak, and what there is; nothing where no GPU was used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    return {"gpu": {"peak_bytes": torch.cuda.max_memory_reserved(), "total_bytes": torch.cuda.mem_get_info()[1]}}


def _result_body(config: Config, outcome: Outcome, threads: int) -> dict[str, Any]:
    seed = {"seed": config["seed"], "select_on": config["data"]["select_on"]}
    environment = {
        "torch": torch.__version__,
        "lightning": L.__version__,
        "python": platform.python_version(),
        "capsexp": capsexp.__version__,
        "threads": threads,
        "accelerator": config["trainer"]["accelerator"],
        "precision": config["trainer"]["precision"],
    }
    stacked = context.facts()
    if stacked is not None:  # its numbers are rounded as the stack's arithmetic rounds them
        environment["stack"] = stacked
    body = {key: value for key, value in asdict(outcome).items() if key != "arrays"}
    share_s = context.share_s()
    body["clocks"] |= {} if share_s is None else {"share_s": share_s}
    body["training"] |= seed
    return {"numerics": records.NUMERICS_VERSION, "environment": environment, **body}


def _write_arrays(directory: Path, outcome: Outcome) -> None:
    with records.replacing(directory / records.ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **cast("dict[str, Any]", outcome.arrays))
