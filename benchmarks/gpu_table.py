"""Markdown tables of what benchmarks/gpu_check.sh found, for docs/throughput.md.

python benchmarks/gpu_table.py OUT/gpu_check.json
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GOALS = {"capsexp-1": 10, "capsexp-8": 3}
"""How many times as fast as these processes a stack shall be."""

RATE = "without start"
"""The rate of a long sweep (see benchmarks/throughput.py)."""

Figures = Mapping[str, Any]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, metavar="FILE", help="gpu_check.json")
    print("\n".join(tables(json.loads(parser.parse_args().record.read_text()))))


def tables(record: Figures) -> Iterator[str]:
    """Lines of Markdown: the machine, the steps, and what each found; a step without figures has no table."""
    yield machine(record)
    yield ""
    yield from table(("step", "outcome", "seconds", "found"), (row_of_step(step) for step in record["steps"]))
    found = {step["name"]: step["figures"] for step in record["steps"] if step.get("figures")}
    for name, lines in (("stacks", stacks), ("memory", memory), ("chip", chip)):
        if name in found:
            yield ""
            yield from lines(found[name])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def machine(record: Figures) -> str:
    """One line about the machine and the run."""
    facts = record["machine"]
    gpus = [f"{gpu['name']} ({gpu['memory']}, driver {gpu['driver']})" for gpu in facts.get("gpus", [])]
    where = ", ".join(gpus) or "no GPU: the CPU in its place"
    software = f"torch {facts.get('torch', '?')}, Python {facts['python']}"
    cores = f"{facts['cores']} cores ({facts['processor']})"
    return (
        f"{where}; {software}; {cores}; {record['data']}; {record['started'][:10]}, {record.get('seconds', 0):.0f} s."
    )


def row_of_step(step: Figures) -> list[str]:
    """How a step ended, and the sum of what it found."""
    return [step["name"], step["outcome"], f"{step['seconds']:.0f}", found_by(step["name"], step.get("figures") or {})]


def found_by(name: str, figures: Figures) -> str:
    """A few words."""
    if not figures:
        return ""
    if name == "tests":
        failed = figures["failed"]
        return f"{figures['passed']} passed, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else "")
    if name == "cells":
        return f"{figures['done']} of {figures['planned']} cells, {figures['share_s']:.0f} s of training"
    if name == "memory":
        ratios = counted(figures)
        return (
            f"predicted / measured from {min(ratios):.2f} to {max(ratios):.2f}"
            if ratios
            else "no step was large enough"
        )
    if name == "chip":
        return f"{len(figures['shapes'])} shapes"
    return ", ".join(f"{len(each['ways'])} ways on {data}" for data, each in figures.items())


def stacks(figures: Figures) -> Iterator[str]:
    """Cells per hour of every way, and how they compare with one process and with eight."""
    for data, each in figures.items():
        rates = {
            way: statistics.median(run["cells_per_hour"][RATE] for run in runs) for way, runs in each["ways"].items()
        }
        goals = {way: goal for way, goal in GOALS.items() if way in rates} or {next(iter(rates)): None}
        heads = [f"against {way}" + (f" (goal {goal})" if goal else "") for way, goal in goals.items()]
        yield f"{data}, {each['epochs']} epochs, cells per hour without the start:"
        yield ""
        rows = []
        for way, runs in each["ways"].items():
            run = runs[-1]
            ratios = [f"{rates[way] / rates[other]:.1f}" for other in goals]
            size = [str(run["cells"]), str(run["members"]), str(run["workers"])]
            rows.append([way, *size, f"{rates[way]:,.0f}", *ratios, f"{run['gpu_bytes'] / 1e6:,.0f}"])
        yield from table(("way", "cells", "members", "processes", "cells/h", *heads, "MB on the GPU"), rows)


def counted(figures: Figures) -> list[float]:
    """Predicted over measured memory, of the steps that are large enough."""
    return [case["estimate"] / case["measured"] for case in figures["cases"] if case["measured"] >= figures["counted"]]


def memory(figures: Figures) -> Iterator[str]:
    """Predicted and measured memory of a training step."""
    yield "Memory of a training step:"
    yield ""
    rows = []
    for case in figures["cases"]:
        sizes = [case["estimate"], case["measured"], case.get("reserved")]
        words = ["" if size is None else f"{size / 1e6:,.0f}" for size in sizes]
        ratio = f"{case['estimate'] / case['measured']:.2f}" if case["measured"] else ""
        rows.append([case["net"], str(case["width"]), str(case["batch"]), case["precision"], *words, ratio])
    heads = ("net", "width", "batch", "precision", "predicted MB", "measured MB", "reserved MB", "predicted / measured")
    yield from table(heads, rows)


def chip(figures: Figures) -> Iterator[str]:
    """CHIP's scores against the loop, and the time for a network."""
    yield "CHIP's scores against their definition, milliseconds per image:"
    yield ""
    rows = []
    for case in figures["shapes"]:
        ratio = f"{case['loop_ms'] / case['ours_ms']:,.0f}"
        goal = f">= {case['goal']}" if case["goal"] else ""
        name = "{}, {}x{}".format(*case["shape"])
        rows.append([name, f"{case['loop_ms']:,.1f}", f"{case['ours_ms']:.3f}", ratio, goal, f"{case['off_by']:.0e}"])
    yield from table(("channels, map", "definition", "ours", "ratio", "goal", "off by"), rows)
    if "network" in figures:
        yield ""
        yield f"All layers of the CIFAR-10 network, 50,000 images: {figures['network']['together']:.0f} s."


if __name__ == "__main__":
    main()
