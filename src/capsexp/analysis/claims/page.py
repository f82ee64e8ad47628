"""The page: every claim judged under every protocol; a summary, then each claim with its numbers and cells."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.analysis import formats
from capsexp.analysis.cells import Protocol
from capsexp.analysis.claims import evidence
from capsexp.analysis.claims.evidence import Evidence, LackingError, Part, gather
from capsexp.analysis.claims.paper import Paper, Source
from capsexp.analysis.claims.rules import Claim, base
from capsexp.analysis.claims.rules.base import ANSWERS, STILL_LEARNING, Labels, Verdict, code
from capsexp.analysis.tables import Table
from capsexp.text import count, plural

HOW = (
    "from the tables of reports alone. Each conclusion of the paper is put to a fixed rule, which stands with the"
    " claim. A verdict belongs to one data set: numbers of different data sets, or of models chosen on different"
    " splits, are never mixed, and what other data than the paper's say is no reproduction. *Undecided* means that"
    " cells are lacking, or that the numbers allow either answer. *Partial* means that there are fewer cells than were"
    " planned, or than the paper has."
    f" {STILL_LEARNING}"
)


@dataclass(frozen=True)
class Request:
    """A command: its claims, their tables, its words as they were given, and the page's path."""

    paper: Paper
    tables: Mapping[str, Sequence[evidence.Table]]
    words: Sequence[str]
    page: Path


PLURAL = ("hold", "do not hold", "undecided")


Verdicts = Mapping[Protocol, Verdict]
"""The verdicts on one claim."""


def judge(claim: Claim, found: Evidence, labels: Labels) -> Verdict:
    """The verdict on a claim; undecided where a source lacks the cells for it."""
    try:
        return base.judge(claim, found, labels)
    except LackingError as error:
        empty = [source for source in claim.sources if source not in found.parts]
        return Verdict("undecided", lines=(str(error),), lacking=tuple(empty or [error.source]))


def totals(judged: Sequence[Verdicts], protocol: Protocol) -> str:
    """The number of each answer: ``4 hold, 5 do not hold, 21 undecided``."""
    found = Counter(each[protocol].answer for each in judged)
    return ", ".join(f"{found[answer]} {words}" for answer, words in zip(ANSWERS, PLURAL, strict=True))


def render(request: Request) -> tuple[str, str]:
    """The page's text, and one line on its verdicts.

    Raises:
        TableError: two tables of a source contradict each other.
    """
    paper, labels = request.paper, request.paper.labels
    grids = {name: source.cells for name, source in paper.sources.items()}
    protocols = gather(request.tables, grids, paper.paper_data)
    judged = [
        {protocol: judge(claim, found, labels) for protocol, found in protocols.items()} for claim in paper.claims
    ]
    page = _Page(request, protocols)
    sections = [page.claim(place, *each) for place, each in enumerate(zip(paper.claims, judged, strict=True), 1)]
    text = "\n".join([page.head(), page.summary(judged), *sections, page.sources()])
    return text, "; ".join(f"{short(protocol)}: {totals(judged, protocol)}" for protocol in protocols)


def short(protocol: Protocol) -> str:
    """A protocol's name."""
    chosen = "" if protocol.select_on == "val" else f", models chosen on {protocol.select_on}"
    return f"{protocol.data}{chosen}"


@dataclass(frozen=True)
class _Page:
    """The input of all parts of the page."""

    request: Request
    protocols: Mapping[Protocol, Evidence]

    @property
    def _paper(self) -> Paper:
        return self.request.paper

    def _name(self, protocol: Protocol) -> str:
        """A protocol's name, and whether its data are the paper's."""
        return f"{short(protocol)} ({'the paper' + chr(39) + 's' if self.protocols[protocol].papers else 'other'} data)"

    def head(self) -> str:
        """Title, source, how the page was made, and how to read it."""
        command = shlex.join(["python", "-m", "capsexp.claims", *self.request.words])
        return f"# {self._paper.title}\n\n{self._paper.source}.\n\nMade by\n\n```sh\n{command}\n```\n\n{HOW}\n"

    # -- the summary ---------------------------------------------------------------------------------------------------

    def summary(self, judged: Sequence[Verdicts]) -> str:
        """A row for each claim, a column for each protocol."""
        rows = [
            [str(place), claim.statement, claim.paper, *map(self._short, verdicts.values())]
            for place, (claim, verdicts) in enumerate(zip(self._paper.claims, judged, strict=True), 1)
        ]
        header = ["", "claim", "paper", *map(self._name, self.protocols)]
        caption = " ".join(f"{self._name(protocol)}: {totals(judged, protocol)}." for protocol in self.protocols)
        return "## Summary\n\n" + formats.to_markdown(Table("summary", caption, header, rows, [], [], []))

    def _short(self, verdict: Verdict) -> str:
        """Verdict and number, and a word where cells are lacking."""
        partial = any(_lacking(sample.part) for sample in verdict.samples)
        text = f"{verdict.answer}: {verdict.number}" if verdict.number else verdict.answer
        return f"{text} (partial)" if partial else text

    # -- a claim -------------------------------------------------------------------------------------------------------

    def claim(self, place: int, claim: Claim, verdicts: Verdicts) -> str:
        """One claim: statement, rule, and a verdict for each protocol."""
        note = f" {claim.note}" if claim.note else ""
        rule = claim.describe(self._paper.labels)
        head = f"## {place}. {claim.statement}\n\nPaper: {claim.paper}.{note}\n\nRule: {rule}\n"
        return "\n".join([head, *(self._verdict(*found) for found in verdicts.items()), ""])

    def _verdict(self, protocol: Protocol, verdict: Verdict) -> str:
        more = [f"more cells: {self._make(self._paper.sources[name], protocol)}" for name in verdict.lacking]
        lines = [f"  - {line}" for line in (*verdict.lines, *self._cells(verdict), *more)]
        return "\n".join([f"- **{self._name(protocol)}: {verdict.answer}**", *lines])

    def _cells(self, verdict: Verdict) -> list[str]:
        """The number of cells of each source in a verdict, their table, and how many were still learning."""
        parts = {sample.part.source: sample.part for sample in verdict.samples}
        lines = []
        for source, part in parts.items():
            samples = [sample for sample in verdict.samples if sample.part is part]
            chosen = {id(cell) for sample in samples for cell in sample.cells}
            used = [cell for cell in part.cells if id(cell) in chosen]
            lost = max(sample.lost for sample in samples)
            verb = plural(len(part.cells), "is", "are")
            left = f", {lost} left out for want of a value" if lost else ""
            lines.append(f"cells: {len(used)} of {code(source)}{left}; there {verb} {self._state(part)}")
            ends = base.learning(used)
            lines += [ends.words(source)] if ends.known else []
        return lines

    def _state(self, part: Part) -> str:
        """The number of cells, those lacking, and the folders."""
        lacking = _lacking(part)
        cells = f"{count(len(part.cells), 'cell')}{f' ({lacking})' if lacking else ''}"
        later = f"; of {count(part.replaced, 'place')} in several folders the last one's cell counts"
        return f"{cells} in {self._links(part)}{later if part.replaced else ''}"

    def _links(self, part: Part) -> str:
        return ", ".join(self._link(folder) for folder in part.folders)

    def _link(self, folder: Path) -> str:
        """A link where the folder lies below the page's, else its name as it was given."""
        root = self.request.page.parent.resolve()
        if not folder.resolve().is_relative_to(root):
            return code(str(folder))
        relative = folder.resolve().relative_to(root).as_posix()
        return f"[{relative}](<{relative}>)" if " " in relative else f"[{relative}]({relative})"

    def _make(self, source: Source, protocol: Protocol) -> str:
        """The commands that make a source's cells."""
        chosen = "" if protocol.select_on == "val" else f" data.select_on={protocol.select_on}"
        command = source.command.replace("{data}", protocol.data) + chosen
        return f"{code(command)}, then {code(f'python -m capsexp.report multirun/{source.folder}')}"

    # -- the sources ---------------------------------------------------------------------------------------------------

    def sources(self) -> str:
        """The cells of each source."""
        lines = ["## Sources", ""]
        for name, source in self._paper.sources.items():
            parts = {protocol: each.parts[name] for protocol, each in self.protocols.items() if name in each.parts}
            lines.append(f"- {code(name)}: {source.what}")
            lines += [f"  - {short(protocol)}: {self._state(part)}" for protocol, part in parts.items()]
            missing = self._make(source, Protocol(self._paper.paper_data, select_on="val"))
            lines += [] if parts else [f"  - no finished cell; {missing}"]
        return "\n".join([*lines, ""])


def _lacking(part: Part) -> str:
    """The planned cells, and those of the paper's grid, where some of them are lacking; empty where none is."""
    done = len(part.cells)
    planned = f"{part.planned} planned" if part.planned != done else ""
    papers = f"{part.beyond} in the paper" if part.beyond else ""
    return ", ".join(text for text in (planned, papers) if text)
