"""A network as an ONNX file: plain ONNX operators, normalised images in, class scores out, in float32."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from capsexp import records
from capsexp.errors import CommandError, require_int
from capsexp.export.network import single, traceable

TOLERANCE = 1e-4
"""The largest accepted difference between a score and torch's."""
BATCHES = (1, 7)
"""Batch sizes on which scores are compared if the file takes any size."""
OLDEST_OPSET = 18
"""The oldest opset that torch writes without another tool."""


class ExportError(CommandError):
    """The network could not be exported, or its file gave other scores."""

    exit_code = 1


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that was written.

    Attributes:
        path: its path.
        size: its size in bytes.
        parameters: number of values in its weights.
        difference: the largest difference between a score and torch's.
        opset: the opset of ONNX's own operators; the file has no other operators.
    """

    path: Path
    size: int
    parameters: int
    difference: float
    opset: int


def export(
    module: nn.Module,
    path: Path,
    image_shape: Sequence[int],
    *,
    images_BCHW: Tensor | None = None,
    batch: int | None = None,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportedFile:
    """Write a network as an ONNX file: input ``images`` (B, C, H, W), output ``scores`` (B, K), both float32.

    Capsule layers are exported in their present inference mode.  The module itself is not changed; weights in half or
    double precision become float32.

    Args:
        module: a network that returns class scores, such as ``load_run(directory).module.model``.
        path: path of the file; it is written only if the scores agree.
        image_shape: (C, H, W) of the images.
        images_BCHW: normalised images for the comparison, float32; None for random ones in [-1, 1].
        batch: the only batch size that the file accepts; None for any.
        opset: ONNX opset, 18 or later; None for torch's default.
        metadata: further entries for the file.

    Raises:
        ConfigError: ``batch`` or ``opset`` is out of range.
        ExportError: the network cannot be traced, or onnxruntime's scores differ by more than 1e-4.
    """
    batch = None if batch is None else require_int("batch", batch, 1)
    opset = None if opset is None else require_int("opset", opset, OLDEST_OPSET, onnx.defs.onnx_opset_version())
    sizes = BATCHES if batch is None else (batch,)
    reference = single(module)
    images_BCHW = _enough(_random(image_shape) if images_BCHW is None else images_BCHW, sum(sizes))
    model = _onnx_model(traceable(reference), image_shape, batch, opset)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    with records.replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        difference = max(_differences(temporary, reference, torch.split(images_BCHW, list(sizes))))
        if not difference <= TOLERANCE:  # NaN is refused too
            raise ExportError(f"onnxruntime's scores differ from torch's by {difference:.2g}, more than {TOLERANCE:g}")
    return ExportedFile(path, path.stat().st_size, _count(model), difference, model.opset_import[0].version)


# -- the graph --------------------------------------------------------------------------------------------------------


def _onnx_model(module: nn.Module, image_shape: Sequence[int], batch: int | None, opset: int | None) -> Any:
    """The ``onnx.ModelProto`` of a traceable module."""
    example_BCHW = torch.zeros(batch or 2, *image_shape)  # two, since torch treats size one as constant
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["scores"]}
    with torch.no_grad(), _quiet():
        try:
            traced = torch.export.export(module, (example_BCHW,), dynamic_shapes=shapes)
            program = torch.onnx.export(traced, dynamo=True, opset_version=opset, verbose=False, **names)
        except Exception as error:  # torch and the network's own code raise errors of many types
            sizes = f"of {batch}" if batch else "of any size"
            raise ExportError(f"torch cannot trace this network for batches {sizes}: {_first_line(error)}") from error
    assert program is not None
    model = program.model_proto
    _tidy(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if set(versions) != {""} or model.functions:
        raise ExportError(f"the file would need operators that are not ONNX's own: {sorted(versions)}")
    if opset is not None and versions[""] != opset:
        raise ExportError(f"torch cannot write this network in opset {opset}, but in {versions['']}")
    return model


def _tidy(model: Any) -> None:
    """Name the batch dimension ``batch``, and remove the source locations of the operators."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = "batch"
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's own warnings: calls that torch has deprecated, and libraries that it does not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
            own = r"(torch\.(onnx|export)|onnx|onnxscript|onnx_ir)(\.|$)"
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=own)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _count(model: Any) -> int:
    """Number of values in the file's weights; scalars are constants of the operators."""
    floats = (each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT and each.dims)
    return sum(torch.Size(each.dims).numel() for each in floats)


# -- the comparison ---------------------------------------------------------------------------------------------------


def _differences(path: Path, module: nn.Module, batches: Sequence[Tensor]) -> Iterator[float]:
    """The largest difference between onnxruntime's and torch's scores, batch by batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = [session.run(["scores"], {"images": images_BCHW.numpy()})[0] for images_BCHW in batches]
    except Exception as error:  # onnxruntime's errors have no common base class
        raise ExportError(f"onnxruntime cannot run the file: {_first_line(error)}") from error
    for images_BCHW, found_BK in zip(batches, found, strict=True):
        with torch.inference_mode():
            expected_BK = module(images_BCHW)
        yield (torch.from_numpy(found_BK) - expected_BK).abs().max().item()


def _random(image_shape: Sequence[int]) -> Tensor:
    return torch.rand(sum(BATCHES), *image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _enough(images_BCHW: Tensor, count: int) -> Tensor:
    """``count`` images, repeated if there are fewer."""
    return images_BCHW.repeat(-(-count // len(images_BCHW)), 1, 1, 1)[:count].float().cpu().contiguous()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
