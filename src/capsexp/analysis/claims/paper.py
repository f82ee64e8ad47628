"""The file of a paper's claims, ``conf/claims/<name>.yaml``, and the tables that its sources name.

Its keys are the fields of :class:`Paper`; ``python -m capsexp.claims --schema FILE`` writes them as a JSON schema.  The
keys of each kind of claim, whose rule stands in the docstring of its class::

    {kind: flat, source: cnn, metric: test/acc, where: {model.c2: {min: 7}}}    # best of the grid less lowest where ...

    kind: trend                  # rank correlations
    source: cnn
    pairs: [{x: model.c2, y: distance/conv2/min, sign: fall, where: {...}}]     # sign: rise, fall or none
    threshold: 0.5               # of `none`: the limit of a trend

    kind: gap                    # one number less another
    a: {source: cnn, metric: test/acc, reduce: max, where: {...}, factor: 1}    # reduce: max, min or mean; not needed
    b: 0.94                      # a constant, or as `a`                        # where one point is left
    relation: near               # near, above, below, at_least_near, at_most_near
    relative: true               # gap and tolerance as shares of b; default: false
                                 # {..., best: test/acc} in place of reduce: where that metric is largest

    kind: paired                 # cell by cell
    a: shared                    # or {source: walk, where: {mode: merge}}
    b: autoencoder
    metric: test/acc
    claimed: every               # every (always greater), near, or above (over seeds)
    by: [seed]                   # axes that are equal in a pair; default: those of both sides

    kind: rank                   # one value of an axis against others, over seeds
    source: walk
    metric: walk/mean_acc
    axis: pruning
    best: cosine
    against: [magnitude, random]
    where: {recipe.mode: remove}

    kind: robust_area            # a rectangle from the widest corner on
    source: capsnet
    metric: test/acc
    axes: [model.c1, model.c2]
    claimed: none                # none or some

Conditions (``where``) are those of a ``report:`` block: ``{model.c2: {min: 7}, model.c3: [6, 8], mode: merge}``.  Every
kind but ``trend`` has a ``tolerance``.  A kind with dots is a module of one's own: see
:mod:`capsexp.analysis.claims.rules`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationInfo, field_validator

from capsexp import records
from capsexp.analysis.claims import evidence
from capsexp.analysis.claims.evidence import Table, TableError
from capsexp.analysis.claims.rules import Claim
from capsexp.analysis.claims.rules.base import Labels, Near
from capsexp.analysis.validation import AtLeast0, Count, Label, Model, Named, validated
from capsexp.errors import require, require_choice

MULTIRUN = Path("multirun")
ENDINGS = (".yaml", ".yml")


class Source(Model):
    """An origin of numbers: a sweep, or several."""

    folder: str = Field(description="the sweep's folder below multirun/, or its report's")
    command: str = Field(description="the command that makes the cells; {data} is the data set's name")
    what: str = Field(description="the source in words")
    cells: Count = Field(0, description="size of the paper's grid; 0: not said")
    axes: list[str] = Field([], description="axes that its tables must have swept; more are allowed")
    columns: list[str] = Field([], description="columns of numbers that its tables must have")


class Paper(Model):
    """The claims of a paper.

    Attributes:
        title: heading of the page.
        source: the paper.
        paper_data: the paper's data set; any other is flagged.
        tolerance: the meaning of "near" in this paper; a claim may have its own.
        columns: labels of axes and metrics.
        sources: the sources of numbers, by name.
        claims: in the order of the page.
    """

    title: str
    source: str
    paper_data: str
    tolerance: AtLeast0
    columns: Annotated[dict[str, Label], Named] = Field(default={})
    sources: Annotated[dict[str, Source], Named]
    claims: list[Claim]

    @field_validator("claims")
    @classmethod
    def _of_the_file(cls, claims: list[Claim], info: ValidationInfo) -> list[Claim]:
        """The claims with the file's tolerance, unless they have their own."""
        for place, claim in enumerate(claims):
            for source in claim.sources:
                known = info.data.get("sources", claim.sources)
                require(source in known, f"[{place}]: source", f"be one of {', '.join(known)}", source)
        names = [claim.name for claim in claims]
        require(len(set(names)) == len(names), "", "have every name once", names)
        default = {"tolerance": info.data.get("tolerance", 0.0)}
        inherits = [isinstance(claim, Near) and "tolerance" not in claim.model_fields_set for claim in claims]
        return [
            claim.model_copy(update=default) if each else claim for claim, each in zip(claims, inherits, strict=True)
        ]

    @property
    def labels(self) -> Labels:
        """The labels of axes and metrics."""
        return Labels({name: label.of(name) for name, label in self.columns.items()})


def stem(name: str) -> str:
    """The short name of a paper whose file may be given by its path."""
    return Path(name).stem if name.endswith(ENDINGS) else name


def load(name: str, *, trust: bool = False) -> Paper:
    """The claims of a paper.

    Args:
        name: a file of ``conf/claims`` without its ending, or the path of another YAML file.
        trust: True if rules may be modules of one's own, which are imported and may run any code.

    Raises:
        ConfigError: there is no such file, or it breaks a rule.
        TableError: it is no YAML.
    """
    if name.endswith(ENDINGS):
        path = Path(name)
        require(path.is_file(), "the paper's file", "be there", name)
    else:
        files = {path.stem: path for path in sorted((records.CONF / "claims").glob("*.yaml"))}
        path = files[require_choice("the paper's name", name, files)]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no YAML: {error}") from error
    return validated(Paper, stem(name), content, trust=trust)


def folders(paper: Paper, words: Sequence[str]) -> dict[str, list[Path]]:
    """The folders that ``source=FOLDER,FOLDER`` words give.

    Raises:
        ConfigError: a word is none of these, names an unknown source, or one twice.
    """
    given: dict[str, list[Path]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        require(bool(equals and text), word, "be SOURCE=FOLDER", word)
        require_choice("source", name, paper.sources)
        require(name not in given, name, "be given once, with a comma between folders", word)
        given[name] = [Path(part) for part in text.split(",") if part]
    return given


def read(paper: Paper, given: Mapping[str, Sequence[Path]]) -> dict[str, list[Table]]:
    """The tables of each source: those of the folders given, else that of its sweep below ``multirun`` if it is there.

    Raises:
        TableError: a folder that was given has no table, or that of another one; a table is damaged, or another
            source's.
    """
    return {
        name: [_read(name, source, path) for path in _paths(name, source, given.get(name))]
        for name, source in paper.sources.items()
    }


def _read(name: str, source: Source, path: Path) -> Table:
    """A table that has what the source's tables have."""
    found = evidence.read(path)
    for word, needed, there in (("axis", source.axes, found.axes), ("column", source.columns, found.metrics)):
        lacking = [head for head in needed if head not in there]
        if lacking:
            raise TableError(f"{name}: {path} has no {word} {lacking[0]}: it is no table of {source.folder}")
    return found


def _paths(name: str, source: Source, given: Sequence[Path] | None) -> list[Path]:
    if given is None:
        found = evidence.find(MULTIRUN / source.folder)
        return [found] if found else []
    paths: list[Path] = []
    for folder in given:
        path = evidence.find(folder)
        if path is None:
            message = f"{name}: {folder} has no {evidence.NAME}; of a sweep, python -m capsexp.report writes it"
            raise TableError(message)
        if path.resolve() in [other.resolve() for other in paths]:
            raise TableError(f"{name}: {path} was given twice; once is enough")
        paths.append(path)
    return paths
