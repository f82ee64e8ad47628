"""Objects of a cell: made from a resolved config for its work, or loaded from a finished cell's folder."""

import functools
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import capsexp
from capsexp import hardware, loading, records, rng, run_settings, tracking
from capsexp.callbacks.checkpoints import read_best
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError, require, require_int
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.making import Config, class_of, make, make_node, make_recipe, without_target
from capsexp.models.base import Classifier
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.recipes.base import Factories
from capsexp.recipes.diagnose import diagnose
from capsexp.recipes.outcome import Outcome
from capsexp.recipes.stages import StageMemo
from capsexp.stacking import context
from capsexp.trainers import ALONE, check_trainer, logger_of, make_trainer


def run(
    config: Config, directory: Path, *, in_sweep: bool = False, cell_id: str = "", axes: Config | None = None
) -> dict[str, Any]:
    """Do one cell's work.

    Args:
        config: the resolved config as plain Python objects.
        directory: the cell's directory, for checkpoints, arrays and logs.
        in_sweep: True if the cell is one of many, so that it has no progress bar.
        cell_id: the cell's id, which is also that of the Weights & Biases run.
        axes: the swept values.

    Returns:
        The body of ``result.json``.

    Raises:
        ConfigError: a value breaks a rule; the error names the key in the form of an override.
    """
    config = records.present_targets(config)  # an older version may have saved it
    threads = set_threads(config["threads"])
    _check_study(config)
    about = tracking.About(config, directory, cell_id, axes or {})
    recipe = make_recipe(config)
    with quiet_lightning():
        recipe.check(factories(config, directory))  # before a run is opened that could only wait
    with quiet_lightning(), tracking.wandb_run(about) as wandb_logger:
        outcome = recipe.run(factories(config, directory, wandb_logger, in_sweep=in_sweep))
        body = _result_body(config, outcome, threads) | _gpu_memory()
        tracking.summarise(wandb_logger, body, axes or {})
    _write_arrays(directory, outcome)
    return body


def factories(config: Config, directory: Path, logger: Any = False, *, in_sweep: bool = False) -> Factories:
    """The makers that a recipe uses."""
    return Factories(
        directory=directory,
        make_data=functools.partial(make_data, config),
        make_model=functools.partial(make_model, config),
        make_module=functools.partial(make_module, config),
        make_trainer=functools.partial(make_trainer, config, directory, logger, in_sweep),
        make_logger=functools.partial(logger_of, logger),
        check_trainer=functools.partial(check_trainer, config),
        stages=StageMemo(Path(config["paths"]["stages"]), functools.partial(_work_key, config)),
    )


def _check_study(config: Config) -> None:
    """Check the group ``study`` against the model's arguments, if the model has a check for it."""
    check = getattr(class_of(config["model"]), "check_study", None)
    if check is not None:
        check(config.get("study") or {}, config["model"])


def make_data(config: Config) -> ImageDataModule:
    """The data module, with the augmentation and the seed of the cell."""
    augment = make(config, "augment")
    return cast("ImageDataModule", make(config, "data", augment=augment, seed=_seed(config)))


def make_model(config: Config, **sizes: Any) -> Classifier:
    """The architecture for data of these sizes, with weights drawn from ``seed``; random states do not change."""
    with rng.drawn_from(_seed(config)) as ended:
        model = cast("Classifier", make(config, "model", without=("module",), **sizes))
    model.random_states = ended
    return model


def make_module(config: Config, model: nn.Module, sizes: Config) -> BaseModule:
    """The LightningModule that trains the architecture."""
    make_optimizer = make(config, "optimizer", _partial_=True)
    try:
        make_optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        rule = f"be arguments that {config['optimizer']['_target_']} takes ({error})"
        raise ConfigError("optimizer", rule, without_target(config["optimizer"])) from error
    parts = {"model": model, "make_optimizer": make_optimizer, "sizes": sizes}
    return cast("BaseModule", make_node(config["model"]["module"], "model.module", **parts))


# -- finished cells ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedRun:
    """A finished cell, loaded into memory.

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
            ConfigError: the data file has changed since the training.
        """
        data = make_data(self.config)
        now, then = data.summary()["sha256"], self.result["data"]["sha256"]
        require(now == then, "data.path", "hold the images that the cell was trained on", self.config["data"]["path"])
        return data

    def examine(self) -> dict[str, NDArray[np.generic]]:
        """Analysis of its couplings and class capsules, see :func:`capsexp.recipes.diagnose.diagnose`.

        Raises:
            ConfigError: its network has no capsule layers, or the data file has changed since the training.
        """
        found = bool(capsule_layers(self.module.model))
        require(found, "run_dir", "hold a cell whose network has capsule layers", self.config["model"]["_target_"])
        options: dict[str, Any] = {key: self.config["trainer"][key] for key in ("accelerator", "precision")}
        options |= dict.fromkeys(
            ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
        )
        with quiet_lightning():
            arrays, _ = diagnose(self.module, self.data(), functools.partial(_diagnosing, options))
        return arrays


def _diagnosing(options: Config, callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(callbacks=callbacks, plugins=[ALONE], **options)


def load_run(directory: str | Path, *, trust: bool = False) -> LoadedRun:
    """Load a finished cell from its directory, in any process, without Hydra's command line.

    A config that names only parts of a cell runs no code of its author; any other is refused.  Files that it
    names are read when :meth:`LoadedRun.data` asks for them.

    Args:
        directory: the cell's directory.
        trust: True if the config may name any class or function, so that loading the cell may run any code.

    Raises:
        ConfigError: the directory holds no finished cell, its files are damaged, or its config names something else
            than parts of a cell.
    """
    directory = Path(directory)
    result = records.read_result(directory)
    require(
        result is not None, "run_dir", f"hold a finished cell ({records.RESULT} is missing or damaged)", str(directory)
    )
    assert result is not None
    rule = "hold the finished cell's weights"
    require((directory / records.BEST_CHECKPOINT).is_file(), "run_dir", rule, str(directory))
    try:
        config = loading.read_config(directory, trust=trust)
        best = read_best(directory)
        if not trust:
            loading.check_sizes(best.sizes, directory / records.BEST_CHECKPOINT)
    except records.DamagedError as error:
        again = f"; sweep.rerun={records.id_of(directory)} computes it again" if records.id_of(directory) else ""
        raise ConfigError("run_dir", f"hold whole files ({error}{again})", str(directory)) from error
    config = loading.without_files(config)
    try:
        module = make_module(config, make_model(config, **best.sizes), best.sizes)
        module.load_state_dict(best.weights)
        set_inference(module.model, best.inference)
    except ConfigError:
        raise
    except Exception as error:  # of many types: a file of another cell, or of an older version, that is damaged
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        rule = f"hold a {records.CONFIG} and a {records.BEST_CHECKPOINT} of one network ({cause})"
        raise ConfigError("run_dir", rule, str(directory)) from error
    return LoadedRun(config, result, module.eval())


# -- helpers ----------------------------------------------------------------------------------------------------------


def _seed(config: Config) -> int:
    return require_int("seed", config["seed"], 0, 2**32 - 1)


def _work_key(config: Config, without: Collection[str]) -> str:
    """The digest of a cell's work without some (dotted) keys of its config; equal digests mean equal numbers."""
    kept = records.digested(config, lambda _, path: records.cached_sha256(path))
    for dotted in without:
        records.drop(kept, dotted)
    code = records.own_code(kept)
    if code:
        kept["code"] = code
    return f"{records.cell_id(kept, kept['data']['path'])}-v{records.NUMERICS_VERSION}"


def set_threads(threads: Any) -> int:
    """Set torch's CPU threads to a number or to ``auto``, all cores; returns their number."""
    torch.set_num_threads(run_settings.check_threads(threads) or hardware.cores())
    return torch.get_num_threads()


def _gpu_memory() -> dict[str, dict[str, int]]:
    """Peak memory of the cell on the GPU and the GPU's total memory; empty if no GPU was used."""
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
    if stacked is not None:  # its numbers depend on the stack's rounding
        environment["stack"] = stacked
    body = {key: value for key, value in asdict(outcome).items() if key != "arrays"}
    code = records.own_code(config)
    body |= {"code": code} if code else {}
    share_s = context.share_s()
    body["clocks"] |= {} if share_s is None else {"share_s": share_s}
    body["training"] |= seed
    return {"numerics": records.NUMERICS_VERSION, "environment": environment, **body}


def _write_arrays(directory: Path, outcome: Outcome) -> None:
    with records.replacing(directory / records.ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **cast("dict[str, Any]", outcome.arrays))
