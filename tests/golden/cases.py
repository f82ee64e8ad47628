"""The commands whose outcome is kept.  Only words that a user types stand here: no name of a module or a function."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

ALWAYS = ("threads=1", "logger.wandb.mode=disabled", "hydra/launcher=basic", "trainer.accelerator=cpu")
TINY = ("data=dhcd", "data.path=tiny.npz", "data.batch_size=16", "trainer.max_epochs=2")


def experiments() -> list[str]:
    """The name of every experiment."""
    return sorted(path.stem for path in CONF.glob("experiment/*.yaml"))


def options(group: str) -> str:
    """All options of a config group, as they are swept."""
    return f"{group}=" + ",".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


def plans() -> dict[str, list[str]]:
    """Sweeps that are planned and not run: every experiment as it stands, and with other recipes and data."""
    found = {name: [f"+experiment={name}"] for name in experiments()}
    for name in experiments():
        found[f"{name}: its data in a file"] = [f"+experiment={name}", "data=dhcd", "data.path=tiny.npz", "seed=1"]
    found["cnn_prune: other keys"] = [
        "+experiment=cnn_prune",
        "data=digits,mnist",
        "model.c2=16,2",
        "model.c3=7",
        "optimizer.lr=1e-3,0.0005",
        "data.select_on=val,test",
        "model.dropout=0,0.25",
    ]
    found["chip_prune: other recipes"] = ["+experiment=chip_prune", "recipe=prune_and_retrain,max_depth", "seed=0,1"]
    found["fast_filters: other recipes"] = ["+experiment=fast_filters", "recipe=accumulate,retrain", "filter=kmeans"]
    found["unnamed"] = ["model.c2=3,4", "trainer.max_epochs=1,2", "optimizer.weight_decay=0"]
    found["unnamed, one cell"] = ["model.c2=3"]
    found["capsules with a coupling file"] = [
        "model=wang_capsnet",
        "routing=fixed",
        "routing.coupling=null,coupling.npy",
        "sweep.name=coupling",
    ]
    return found


def singles() -> dict[str, list[str]]:
    """Sweeps over all options of config groups, and over two groups at once as far as they compose."""
    capsules, recipes = "model=capsnet,deep_capsnet,wang_capsnet", "recipe=accumulate,retrain,warm_start"
    return {
        "data x augment": [options("data"), options("augment")],
        "data x model": [options("data"), options("model")],
        "data in a file": [options("data"), "data.path=tiny.npz", options("augment")],
        "augment x model": [options("augment"), options("model")],
        "model x recipe": [
            options("model"),
            "recipe=train,prune_and_retrain,max_depth,merge_walk,autoencode_then_classify",
        ],
        "model x recipe, capsules": [capsules, options("recipe")],
        "model x pruning": [options("model"), options("pruning")],
        "model x routing": [capsules, options("routing")],
        "routing x recipe": ["model=capsnet", options("routing"), recipes],
        "recipe x filter": ["model=capsnet", recipes, options("filter")],
        "recipe x pruning": [
            "recipe=prune_and_retrain,max_depth,merge_walk",
            options("pruning"),
            "model=cnn,deep_capsnet",
        ],
        "experiment protocol": ["+protocol=sahu", "study.net=C3D4,C20D8", options("pruning")],
    }


SWEEPS: dict[str, list[str]] = {
    "cnn_prune": ["model.c2=4,3,2", "model.c3=4,3,2", *TINY],
    "caps_prune": ["model.c1=16,8", "model.c2=16,8", *TINY],
    "fast_inference": [
        "seed=0",
        "model.c1=16",
        "model.c2=16",
        "model.decoder=[16,16]",
        "callbacks.lr_decay.warmup=2",
        *TINY,
    ],
    "chip_prune": ["study.net=C3D4", "pruning.ratio=0,0.25,0.5", *TINY],
    "deep_prune": ["study.net=C3D4", "model.depth=1,2", "pruning.ratio=0,0.25", *TINY],
    "ae_prune": ["model.c1=4,2", "model.c2=4,2", *TINY],
    "merge_walk": [
        "recipe.down_to=14",
        "recipe.steps=0,2",
        "recipe.mode=merge,remove,reinit",
        "pruning=cosine,magnitude",
        "seed=0,1",
        *TINY,
    ],
    "activity_vectors": [
        "model.c1=16",
        "model.c2=16",
        "model.decoder=[16,32]",
        "callbacks.activity_vectors.steps=3",
        *TINY,
    ],
    "holes": [
        "model.c2=3,0",
        "optimizer.lr=1e-3,1e30",
        "seed=0,1",
        "sweep.name=holes",
        *TINY,
    ],
}
"""Sweeps that are run.  ``holes`` is no experiment: some of its cells fail or diverge."""

LONG = ("ae_prune", "fast_filters", "fast_inference", "merge_walk", "prune_criteria", "shared_ae_prune")
QUICK_PLANS = tuple(name for name in experiments() if name not in LONG)
"""Plans that are made by every test run; the others are slow."""

QUICK = ("cnn_prune", "holes")
"""Those that are run by every test run; the others are slow."""


def sweep(name: str) -> list[str]:
    """The arguments of a sweep that is run."""
    experiment = [f"+experiment={name}"] if name in experiments() else []
    return [*experiment, *SWEEPS[name], *ALWAYS, "-m"]


WRONG: dict[str, list[str]] = {
    "unknown key": ["capsexp", "model.c9=1"],
    "unknown key of a sweep": ["capsexp", "model.c9=1,2", "-m"],
    "unknown option of a group": ["capsexp", "model=resnet"],
    "unknown experiment": ["capsexp", "experiment=none_such"],
    "two experiments": ["capsexp", "experiment=a,b", "-m"],
    "wrong type": ["capsexp", "model.c2=wide"],
    "wrong value": ["capsexp", "model.dropout=1.2"],
    "wrong value of a trainer": ["capsexp", "trainer.max_epochs=0"],
    "two devices": ["capsexp", "trainer.devices=2"],
    "no class": ["capsexp", "optimizer._target_=torch.optim.Adamant"],
    "no argument": ["capsexp", "+optimizer.speed=1"],
    "missing data file": ["capsexp", "data.path=nowhere.npz"],
    "missing data file of a sweep": ["capsexp", "data.path=nowhere.npz", "seed=0,1", "-m"],
    "no archive": ["capsexp", "data.path=words.npz"],
    "missing coupling": ["capsexp", "model=capsnet", "routing=fixed", "routing.coupling=nowhere.npy"],
    "routing without capsules": ["capsexp", "routing=max_min"],
    "recipe for another model": ["capsexp", "recipe=accumulate"],
    "ratio without its recipe": ["capsexp", "+pruning.ratio=0.5"],
    "wrong launcher setting": ["capsexp", "hydra/launcher=capsexp", "hydra.launcher.retries=-1", "seed=0,1", "-m"],
    "unknown launcher setting": ["capsexp", "hydra/launcher=capsexp", "+hydra.launcher.speed=1", "seed=0,1", "-m"],
    "wrong form of stacks": ["capsexp", "hydra/launcher=stacked", "hydra.launcher.form=round", "seed=0,1", "-m"],
    "batch of a sweeper": ["capsexp", "hydra/launcher=capsexp", "hydra.sweeper.max_batch_size=2", "seed=0,1", "-m"],
    "wrong rerun": ["capsexp", "sweep.rerun=some", "seed=0,1", "-m"],
    "rerun of no cell": ["capsexp", "sweep.rerun=0123456789", "seed=0,1", "-m"],
    "swept name": ["capsexp", "sweep.name=a,b", "-m"],
    "swept folder": ["capsexp", "paths.output=a,b", "-m"],
    "moved run": ["capsexp", "hydra.run.dir=elsewhere"],
    "moved sweep": ["capsexp", "hydra.sweep.dir=elsewhere", "seed=0,1", "-m"],
    "not listed": ["capsexp", "model.c2=interval(1,3)", "-m"],
    "broken override": ["capsexp", "model.c2=["],
    "wandb's name": ["capsexp", "logger.wandb.mode=offline", "logger.wandb.project=a/b", "seed=0,1", "-m"],
    "wandb's mode": ["capsexp", "logger.wandb.mode=always"],
    "all cells are wrong": ["capsexp", "model.c2=0,-1", "-m"],
    "plan of a wrong key": ["capsexp.plan", "model.c9=1,2", "-m"],
    "report of nothing": ["capsexp.report", "nowhere"],
    "report of a folder": ["capsexp.report", "empty"],
    "report without a folder": ["capsexp.report"],
    "status of nothing": ["capsexp.status", "nowhere"],
    "status of a folder": ["capsexp.status", "empty"],
    "status every never": ["capsexp.status", "--watch=0", "empty"],
    "claims of nobody": ["capsexp.claims", "nobody"],
    "claims of an unknown source": ["capsexp.claims", "wang", "other=empty"],
    "claims of no folder": ["capsexp.claims", "wang", "cnn=nowhere"],
    "claims of a bad word": ["capsexp.claims", "wang", "cnn"],
    "sync of nothing": ["capsexp.sync", "nowhere"],
    "sync in no time": ["capsexp.sync", "empty", "--timeout", "0"],
    "sync without a login": ["capsexp.sync", "empty"],
    "export of an unfinished cell": ["capsexp.export", "empty"],
    "export of nothing": ["capsexp.export", "nowhere", "--inference", "slow"],
    "analyse an unfinished cell": ["capsexp.analyse", "empty"],
    "dashboard of nothing": ["capsexp.dashboard", "nowhere"],
}
"""Commands that are refused: the module, and its arguments."""

TOLD: dict[str, list[str]] = {
    "plan of a sweep": ["capsexp.plan", "+experiment=cnn_prune", "model.c2=3,4", "model.c3=3", "-m"],
    "plan of a cell": ["capsexp.plan", "+experiment=cnn_prune"],
}
"""Commands that only say something."""

STACKED = [
    "+experiment=cnn_prune",
    "model.c2=4,2",
    "model.c3=3,2",
    *TINY,
    *ALWAYS[:2],
    *ALWAYS[3:],
    "sweep.name=stacked",
]
"""A sweep that is trained as one stack."""

AS_STACK = (
    "hydra/launcher=stacked",
    *(f"hydra.launcher.{word}" for word in ("form=grouped", "buckets=1", "max_cells=1")),
)
"""How: nothing is left to what is fastest at the moment."""

INTERRUPTED: dict[str, list[str]] = {
    "cnn": ["model=cnn", "model.c2=3", "model.c3=3"],
    "stages": ["recipe=prune_and_retrain", "pruning=chip", "model=deep_capsnet", "model.capsules=3", "model.dim=4"],
    "retrain": ["recipe=retrain", "model=capsnet", "model.c1=8", "model.c2=8", "model.decoder=null"],
}
"""Cells that are broken off behind an epoch and given again."""


def interrupted(name: str) -> list[str]:
    """The arguments of such a cell."""
    more = ["callbacks.resume.min_interval_s=0", "trainer.max_epochs=3", f"sweep.name={name}"]
    return [*INTERRUPTED[name], *TINY, *ALWAYS, *more]
