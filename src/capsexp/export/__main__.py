"""``python -m capsexp.export RUN_DIR``: a finished cell's network as an ONNX file, checked against torch."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands
from capsexp.errors import CommandError
from capsexp.text import install

NEEDED = ("onnx", "onnxruntime", "onnxscript")
INSTALL = f"needs the extra onnx: {install('onnx')}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 if no file could be written that computes what torch computes."""
    return commands.run(_parser(), _export, words)


def _export(given: argparse.Namespace) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"{INSTALL}; {', '.join(missing)} not found")
    from capsexp.export.cell import export_cell  # takes seconds, which --help need not

    options = {"batch": given.batch, "opset": given.opset, "trust": given.trust}
    exported, way = export_cell(given.directory, given.inference, given.out, **options)
    facts = f"{exported.parameters:,} parameters, {exported.size / 1e6:.2f} MB, opset {exported.opset}"
    same = f"scores differ from torch's by at most {exported.difference:.1e}"
    sys.stdout.write(f"{f'{way} inference, ' if way else ''}{facts}; {same}\n{exported.path}\n")


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "export", "Write a finished cell's network as an ONNX file, checked against torch on its test images."
    )
    parser.add_argument("directory", metavar="RUN_DIR", type=Path, help="directory of a finished cell")
    parser.add_argument(
        "--inference",
        choices=("dynamic", "fast", "folded"),
        help="capsule networks: with the routing loop, with votes and master coefficients, or with the masters folded "
        "into the weights (default: as the cell was kept)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: RUN_DIR/model-<inference>.onnx")
    parser.add_argument("--opset", metavar="N", type=int, help="of ONNX, 18 or later (default: torch's)")
    parser.add_argument("--batch", metavar="N", type=_batch, help="images in a batch, or dynamic for any (the default)")
    parser.add_argument("--trust", action="store_true", help=commands.TRUST)
    return parser


def _batch(word: str) -> int | None:
    return None if word == "dynamic" else int(word)


_batch.__name__ = "size of batch"  # the name in argparse's error


if __name__ == "__main__":
    sys.exit(main())
