"""A cell's config as plain Python, and its id."""

from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from capsexp import records, run_settings
from capsexp.errors import ConfigError, require
from capsexp.sweep.unread import check_read

Plain = dict[str, Any]
"""A config as plain dicts, lists and scalars."""


def resolved(config: DictConfig, folder: Path | None = None) -> Plain:
    """A cell's config with every interpolation resolved, without Hydra's own part and the plan's ``sweep.cell``.

    Args:
        config: the composed config.
        folder: the folder of the command; None for the present one.
    """
    return checked(plain_of(config), config, folder)


def plain_of(config: DictConfig) -> Plain:
    """A config with every interpolation resolved, without Hydra's own part."""
    return {str(key): _plain(config[key]) for key in config if key != "hydra"}


def checked(plain: Plain, config: DictConfig, folder: Path | None = None) -> Plain:
    """A cell's config as :func:`plain_of` gives it, checked, with whole paths and without ``sweep.cell``.

    Args:
        plain: the config as plain Python; it is changed.
        config: the composed config, or one that differs from it in values alone.
        folder: the folder of the command; None for the present one.
    """
    _check_shape(plain)
    check_read(config, plain)
    records.drop(plain, records.CELL_KEY)
    for dotted, node, key in records.named_files(plain):
        path = node[key]
        if dotted.startswith("data."):
            require(isinstance(path, str), dotted, "be the path of an .npz file", path)
        if isinstance(path, str):  # else the routing reports the error
            node[key] = str(Path(folder or ".", Path(path).expanduser()).absolute())
    plain["sweep"]["name"] = str(plain["sweep"]["name"])  # a date is read as a number
    plain["paths"] = {name: str(path) for name, path in plain["paths"].items()}
    run_settings.check(plain)
    if folder is not None and folder != Path.cwd():  # Hydra changes the folder with hydra.job.chdir=true
        for key in ("output", "sweep", "stages"):
            plain["paths"][key] = str(Path(folder, str(plain["paths"][key])))
    return plain


GROUPS = ("data", "model", "recipe", "callbacks", "trainer", "optimizer", "paths", "sweep", "report")
"""Parts of every config that are mappings."""

NEEDED = (
    *("augment", "pruning", "data.path", "data.select_on", "model.module", "sweep.name", "sweep.rerun"),
    *("paths.output", "paths.sweep", "paths.stages"),
    *("trainer.accelerator", "trainer.max_epochs", "trainer.precision", "trainer.progress"),
)
"""Further keys that every config has; where they are to have no effect, their value says so."""


def _check_shape(plain: Plain) -> None:
    """Refuse a config in which a value is missing, or a group was taken away or replaced by a list, a number or a text.

    Raises:
        ConfigError: for the first such key.
    """
    for key, value in records.leaves(plain):
        require(value != MISSING, key, "have a value", value)
    for key in GROUPS:
        require_mapping(key, plain.get(key))
    for key in NEEDED:
        group, _, name = key.rpartition(".")
        require(name in (plain[group] if group else plain), key, "be there", None)
    seed = plain.get("seed")
    require(isinstance(seed, int) and not isinstance(seed, bool), "seed", "be a whole number", seed)
    parts = {f"{group}.{name}": part for group in ("callbacks", "logger") for name, part in _items(plain.get(group))}
    if "module" in plain["model"]:
        parts["model.module"] = plain["model"]["module"]
    if "source" in plain["data"]:
        parts["data.source"] = plain["data"]["source"]
    for key, part in parts.items():
        require_mapping(key, part, or_null=True)
    for key, part in {**{key: plain[key] for key in ("data", "model", "recipe", "optimizer")}, **parts}.items():
        target = (part or {}).get("_target_", "")
        require(isinstance(target, str), f"{key}._target_", "be the dotted name of a class", target)
    for name, path in plain["paths"].items():
        require(is_word(path) and path != "", f"paths.{name}", "be the path of a folder", path)


KEYS = {
    "optimizer": "optimizer._target_=torch.optim.SGD, optimizer.lr=0.1",
    "sweep": "sweep.name=NAME",
    "paths": "paths.output=FOLDER",
    "report": "report.title=TEXT",
    "logger.wandb": "logger.wandb.mode=offline",
    "model.module": "model.module._target_=CLASS",
    "data.source": "data.source._target_=CLASS",
}
"""Overrides of single keys, by mappings that are no config groups."""

OPTIMIZERS = {
    name.lower(): name
    for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
}
"""The names of torch's optimizers as people write them."""


def require_mapping(key: str, value: Any, *, or_null: bool = False) -> None:
    """Raise :class:`ConfigError`, with the way to set the key, unless ``value`` is a mapping."""
    if isinstance(value, dict) or (or_null and value is None):
        return
    name = OPTIMIZERS.get(str(value).lower()) if key == "optimizer" else None
    if (records.CONF / key).is_dir():
        how = f"choose one with {key}=OPTION: {options_of(key)}"
    elif name is not None:
        how = f"set its keys: optimizer._target_=torch.optim.{name}"
    else:
        how = f"set its keys: {KEYS.get(key, f'{key}.KEY=VALUE')}"
    raise ConfigError(key, f"be a group of keys{', or null' if or_null else ''} ({how})", value)


def options_of(group: str) -> str:
    """The options of a config group, as a list in text."""
    return ", ".join(sorted(path.stem for path in (records.CONF / group).glob("*.yaml")))


def is_word(value: Any) -> bool:
    """True for a text, or for a number that was typed where a text belongs, such as a date."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _items(group: Any) -> Any:
    return group.items() if isinstance(group, dict) else ()


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def override_texts(hydra: DictConfig, kind: str = "task") -> list[str]:
    """The overrides of a command, verbatim; their interpolations are not resolved.

    Args:
        hydra: Hydra's part of the composed config.
        kind: ``task`` or ``hydra``, Hydra's two kinds of overrides.
    """
    words = cast("Plain", OmegaConf.to_container(hydra.overrides, resolve=False))
    return [str(word) for word in words[kind]]


def swept_by_experiment(hydra: DictConfig) -> dict[str, str]:
    """The grid of an experiment by key, with values in the syntax of overrides.

    Args:
        hydra: Hydra's part of the composed config.
    """
    sweeper = cast("Plain", OmegaConf.to_container(hydra.sweeper, resolve=False))
    return {str(key): str(value) for key, value in (sweeper.get("params") or {}).items()}


def cell_id(config: DictConfig) -> str:
    """The id of a cell from its config."""
    return id_of(resolved(config))


def id_of(plain: Plain) -> str:
    """The id of a cell from its resolved config; files count by their content."""
    kept = records.digested(plain, _digest)
    return records.cell_id(kept, kept["data"]["path"])


def _digest(key: str, path: Path) -> str:
    kind = ".npz" if key.startswith("data.") else ".npy"
    require(path.exists(), key, f"name an existing {kind} file", str(path))
    require(path.is_file(), key, "name a file, not a folder", str(path))
    return records.cached_sha256(path)
