"""The page: a summary of all verdicts, then each claim with the numbers and cells behind it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.analysis import formats
from capsexp.analysis.claims import learning
from capsexp.analysis.claims.evidence import Body, Evidence, Part
from capsexp.analysis.claims.finding import Finding
from capsexp.analysis.claims.gathering import gather
from capsexp.analysis.claims.judging import Judged, judge, tally
from capsexp.analysis.claims.labels import code
from capsexp.analysis.claims.schema import Claims, Source
from capsexp.analysis.claims.sources import Request
from capsexp.analysis.tables import Table
from capsexp.text import count, plural

HOW = (
    "from the tables of reports alone. Each conclusion of the paper is put to a fixed rule, which stands with the"
    " claim. A verdict belongs to one data set: numbers of different data sets, or of models chosen on different"
    " splits, are never mixed, and what other data than the paper's say is no reproduction. *Undecided* means that"
    " cells are lacking, or that the numbers allow either answer. *Partial* means that there are fewer cells than were"
    " planned, or than the paper has."
    f" {learning.RULE}"
)


def render(request: Request) -> tuple[str, str]:
    """The page's text, and one line on its verdicts.

    Raises:
        TableError: two tables of a source contradict each other.
    """
    claims = request.claims
    cells = {name: source.cells for name, source in claims.sources.items()}
    bodies = gather(request.tables, cells, claims.paper_data)
    judged = judge(claims, bodies)
    page = _Page(request, bodies)
    sections = [page.claim(place, each) for place, each in enumerate(judged, 1)]
    text = "\n".join([page.head(), page.summary(judged), *sections, page.sources()])
    return text, "; ".join(f"{short(body)}: {tally(judged, body)}" for body in bodies)


def short(body: Body) -> str:
    """A body's name."""
    return body.data if body.select_on == "val" else f"{body.data}, models chosen on {body.select_on}"


@dataclass(frozen=True)
class _Page:
    """What all parts of the page need."""

    request: Request
    bodies: Mapping[Body, Evidence]

    @property
    def _claims(self) -> Claims:
        return self.request.claims

    def _name(self, body: Body) -> str:
        """A body's name, and whether its data are the paper's."""
        return f"{short(body)} ({'the paper' + chr(39) + 's' if self.bodies[body].papers else 'other'} data)"

    def head(self) -> str:
        """Title, source, how the page was made, and how to read it."""
        command = shlex.join(["python", "-m", "capsexp.claims", *self.request.words])
        return f"# {self._claims.title}\n\n{self._claims.source}.\n\nMade by\n\n```sh\n{command}\n```\n\n{HOW}\n"

    # -- the summary ---------------------------------------------------------------------------------------------------

    def summary(self, judged: Sequence[Judged]) -> str:
        """A row for each claim, a column for each body of evidence."""
        rows = [
            [str(place), each.claim.statement, each.claim.paper, *map(self._short, each.findings.values())]
            for place, each in enumerate(judged, 1)
        ]
        header = ["", "claim", "paper", *map(self._name, self.bodies)]
        caption = " ".join(f"{self._name(body)}: {tally(judged, body)}." for body in self.bodies)
        return "## Summary\n\n" + formats.to_markdown(Table("summary", caption, header, rows, [], [], []))

    def _short(self, finding: Finding) -> str:
        """Verdict and number, and a word where cells are lacking."""
        partial = any(_holes(sample.part) for sample in finding.samples)
        text = f"{finding.verdict}: {finding.number}" if finding.number else finding.verdict
        return f"{text} (partial)" if partial else text

    # -- a claim -------------------------------------------------------------------------------------------------------

    def claim(self, place: int, judged: Judged) -> str:
        """One claim: statement, rule, and what was found on each body."""
        claim, note = judged.claim, f" {judged.claim.note}" if judged.claim.note else ""
        rule = claim.kind.rule(self._claims.labels)
        head = f"## {place}. {claim.statement}\n\nPaper: {claim.paper}.{note}\n\nRule: {rule}\n"
        return "\n".join([head, *(self._finding(*found) for found in judged.findings.items()), ""])

    def _finding(self, body: Body, finding: Finding) -> str:
        more = [f"more cells: {self._make(self._claims.sources[name], body)}" for name in finding.lacking]
        lines = [f"  - {line}" for line in (*finding.lines, *self._cells(finding), *more)]
        return "\n".join([f"- **{self._name(body)}: {finding.verdict}**", *lines])

    def _cells(self, finding: Finding) -> list[str]:
        """How many cells of each source stand behind a finding, where their table is, and whether they had ended."""
        parts = {sample.part.source: sample.part for sample in finding.samples}
        lines = []
        for source, part in parts.items():
            samples = [sample for sample in finding.samples if sample.part is part]
            used = {row.id: row for sample in samples for row in sample.rows}
            lost = max(sample.lost for sample in samples)
            verb = plural(len(part.rows), "is", "are")
            left = f", {lost} left out for want of a value" if lost else ""
            lines.append(f"cells: {len(used)} of {code(source)}{left}; there {verb} {self._state(part)}")
            ends = learning.learning(used.values())
            lines += [ends.words(source)] if ends.known else []
        return lines

    def _state(self, part: Part) -> str:
        """How many cells there are, what is lacking, and where they lie."""
        holes = _holes(part)
        cells = f"{count(len(part.rows), 'cell')}{f' ({holes})' if holes else ''}"
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

    def _make(self, source: Source, body: Body) -> str:
        """The commands that make a source's cells."""
        chosen = "" if body.select_on == "val" else f" data.select_on={body.select_on}"
        command = source.command.replace("{data}", body.data) + chosen
        return f"{code(command)}, then {code(f'python -m capsexp.report multirun/{source.folder}')}"

    # -- the sources ---------------------------------------------------------------------------------------------------

    def sources(self) -> str:
        """What there is of each source."""
        lines = ["## Sources", ""]
        for name, source in self._claims.sources.items():
            parts = {body: each.parts[name] for body, each in self.bodies.items() if name in each.parts}
            lines.append(f"- {code(name)}: {source.what}")
            lines += [f"  - {short(body)}: {self._state(part)}" for body, part in parts.items()]
            lines += [] if parts else [f"  - no finished cell; {self._make(source, Body(self._claims.paper_data))}"]
        return "\n".join([*lines, ""])


def _holes(part: Part) -> str:
    """What a source lacks: cells that were planned, and cells of the paper's grid; empty where it is whole."""
    done = len(part.rows)
    planned = f"{part.planned} planned" if part.planned != done else ""
    papers = f"{part.beyond} in the paper" if part.beyond else ""
    return ", ".join(text for text in (planned, papers) if text)
