"""Networks as ONNX files: the same scores in onnxruntime, whatever the routing and the inference."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp import records
from capsexp.errors import ConfigError
from capsexp.export.__main__ import INSTALL, main
from capsexp.export.cell import _set_way
from capsexp.models.backbones import Plain
from capsexp.models.base import Classifier, count_parameters
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.routing import (
    EM,
    Dynamic,
    Fixed,
    InvertedAttention,
    MaxMin,
    Optimised,
    SelfAttention,
    SelfRouting,
    VariationalBayes,
)
from examples.own_routing import Tempered

onnx = pytest.importorskip("onnx", reason=INSTALL)
onnxruntime = pytest.importorskip("onnxruntime", reason=INSTALL)
pytest.importorskip("onnxscript", reason=INSTALL)

file = importlib.import_module("capsexp.export.file")
cells = importlib.import_module("capsexp.export.cell")

SHAPE = (1, 19, 19)


def capsnet(routing: Any, way: str) -> CapsNet:
    """A network with a decoder and random masters, set to a way of inference; its votes are far from small."""
    torch.manual_seed(0)
    model = CapsNet(image_shape=SHAPE, classes=3, routing=routing, c1=16, c2=16, decoder=[8])
    for layer in capsule_layers(model).values():
        layer.weight.data *= 10
        layer.set_master(torch.rand(3, layer.weight.shape[3]))
        if isinstance(layer.routing, Fixed):
            layer.routing.set_coupling(torch.rand(3, layer.weight.shape[3]))
    set_inference(model, way)
    return model.eval()


def run_onnx(path: Path, images_BCHW: Tensor) -> Tensor:
    (scores_BK,) = onnxruntime.InferenceSession(path).run(None, {"images": images_BCHW.numpy()})
    return torch.from_numpy(scores_BK)


def products(model: Any) -> int:
    """How many matrix products a graph has."""
    return sum(node.op_type in ("MatMul", "Gemm") for node in model.graph.node)


@pytest.mark.parametrize(
    ("routing", "way"),
    [
        (Dynamic, "dynamic"),
        (Dynamic, "folded"),
        (MaxMin, "fast"),
        pytest.param(partial(MaxMin, iterations=2), "dynamic", marks=pytest.mark.slow),
        pytest.param(partial(Tempered, iterations=2), "dynamic", marks=pytest.mark.slow),
        pytest.param(Fixed, "dynamic", marks=pytest.mark.slow),
    ],
)
def test_capsule_networks(tmp_path: Path, routing: Any, way: str) -> None:
    model, path = capsnet(routing, way), tmp_path / "model.onnx"
    exported = file.export(model, path, SHAPE)
    for batch in (1, 2, 7, 50):
        images_BCHW = torch.rand(batch, *SHAPE)
        with torch.inference_mode():
            torch.testing.assert_close(run_onnx(path, images_BCHW), model(images_BCHW), atol=1e-5, rtol=0)
    written, layer = onnx.load(path), model.class_capsules
    assert {node.domain for node in written.graph.node} == {""}
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in written.graph.node}
    if way == "folded" or routing is Fixed:
        assert products(written) == 1
    master = layer.weight.shape[0] * layer.weight.shape[3] if way == "fast" else 0
    decoder = count_parameters(model.decoder)  # type: ignore[arg-type]
    assert exported.parameters == count_parameters(model) - decoder + master
    assert exported.size == path.stat().st_size
    assert exported.difference < 1e-5
    assert layer.inference == way
    assert "route" not in vars(layer)


LOGISTIC = {"normaliser": "batch_norm", "activation": "logistic", "dim_class": 0}
ATTENTION = {"normaliser": "layer_norm", "head": "linear"}


@pytest.mark.parametrize(
    ("routing", "options"),
    [
        (SelfRouting, LOGISTIC),
        pytest.param(InvertedAttention, ATTENTION, marks=pytest.mark.slow),
        pytest.param(SelfAttention, {}, marks=pytest.mark.slow),
        pytest.param(Optimised, {}, marks=pytest.mark.slow),
    ],
)
def test_networks_whose_layers_exchange_activations_or_normalise(
    tmp_path: Path, routing: Any, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    sizes = {"image_shape": SHAPE, "classes": 3, "capsules": 3, "dim": 4, "depth": 1, "intermediate_std": None}
    model, path = DeepCapsNet(**sizes, routing=routing, **options).eval(), tmp_path / "model.onnx"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    file.export(model, path, SHAPE)
    images_BCHW = torch.rand(5, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(run_onnx(path, images_BCHW), model(images_BCHW), atol=1e-5, rtol=0)


def test_a_network_whose_layers_route_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=partial(InvertedAttention, iterations=2),
        backbone=partial(Plain, channels=[4], strides=[2]),
        primary={"types": 2, "dim": 4, "normaliser": "layer_norm"},
        layers=[{"types": 3, "dim": 4, "stride": 2, "padding": 1}],
        matrix=True,
        concurrent=True,
        dim_class=4,
        head="linear",
    ).eval()
    file.export(model, tmp_path / "model.onnx", SHAPE)
    images_BCHW = torch.rand(5, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(
            run_onnx(tmp_path / "model.onnx", images_BCHW), model(images_BCHW), atol=1e-5, rtol=0
        )


GAUSSIANS = {"matrix": True, "class_shared": True, "class_coordinates": True, "dim_class": 4}


@pytest.mark.parametrize(
    ("routing", "normaliser"),
    [
        (partial(EM, iterations=2, inverse_temperature=0.5), "none"),
        pytest.param(partial(VariationalBayes, iterations=2), "type_norm", marks=pytest.mark.slow),
    ],
)
def test_networks_whose_windows_compete_for_children(tmp_path: Path, routing: Any, normaliser: str) -> None:
    torch.manual_seed(0)
    model = LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=routing,
        backbone=partial(Plain, channels=[4], kernels=[5], strides=[2]),
        primary={"types": 2, "dim": 4, "kernel": 1, "normaliser": normaliser, "activation": "logistic"},
        layers=[{"types": 3, "dim": 4, "stride": 2, "padding": 1}],
        **GAUSSIANS,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        model.train()(torch.rand(9, *SHAPE))  # statistics of one's own
    file.export(model.eval(), tmp_path / "model.onnx", SHAPE)
    images_BCHW = torch.rand(5, *SHAPE)
    with torch.inference_mode():
        expected_BK = model(images_BCHW)
    assert float(expected_BK.std()) > 1e-3
    torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", images_BCHW), expected_BK, atol=1e-5, rtol=0)


@pytest.mark.parametrize("coordinates", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_master_of_shared_matrices(tmp_path: Path, coordinates: bool) -> None:
    torch.manual_seed(0)
    model = LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=Dynamic,
        backbone=partial(Plain, channels=[4], strides=[2]),
        primary={"types": 2, "dim": 4, "stride": 2},
        **GAUSSIANS | {"class_coordinates": coordinates},  # type: ignore[arg-type]
    ).eval()
    model.class_capsules.set_master(torch.rand(3, model.class_capsules.child_count))
    set_inference(model, "folded")
    file.export(model, tmp_path / "model.onnx", SHAPE)
    images_BCHW = torch.rand(5, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(
            run_onnx(tmp_path / "model.onnx", images_BCHW), model(images_BCHW), atol=1e-5, rtol=0
        )


def small_cnn() -> Classifier:
    torch.manual_seed(0)
    return CNN(image_shape=SHAPE, classes=3, c1=2, c2=2, c3=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the CNN in half precision, for batches of four."""
    path = tmp_path_factory.mktemp("cnn") / "below" / "model.onnx"
    cnn = small_cnn().bfloat16()
    exported = file.export(cnn, path, SHAPE, batch=4, opset=21, metadata={"by": "me"})
    assert {parameter.dtype for parameter in cnn.parameters()} == {torch.bfloat16}
    assert cnn.training
    assert (exported.opset, exported.parameters) == (21, count_parameters(cnn))
    return path


def test_a_cnn_in_half_precision_becomes_single(written: Path) -> None:
    cnn, images_BCHW, model = small_cnn().bfloat16().float().eval(), torch.rand(4, *SHAPE), onnx.load(written)
    torch.testing.assert_close(run_onnx(written, images_BCHW), cnn(images_BCHW), atol=1e-5, rtol=0)
    assert model.opset_import[0].version == 21
    assert [(each.key, each.value) for each in model.metadata_props] == [("by", "me")]
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [4, *SHAPE]
    assert b".py" not in written.read_bytes()  # no line of code, no path


@pytest.mark.parametrize("change", [2e-4, float("nan")])
def test_a_file_with_other_scores_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Path, change: float
) -> None:
    monkeypatch.setattr(file, "_onnx_model", lambda *_: onnx.load(written))
    path, other = tmp_path / "model.onnx", small_cnn().bfloat16()
    path.write_text("an older one")
    file.export(other, path, SHAPE, batch=4)
    right = path.read_bytes()
    other.layers.linear.float().bias.data += change  # type: ignore[union-attr,operator]
    with pytest.raises(file.ExportError, match=r"differ from torch's by (0.0002|nan), more than 0\.0001"):
        file.export(other, path, SHAPE, batch=4)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == right


class Counted(nn.Module):
    """Its scores hold the size of the batch as a number."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.flatten(1) * len(images_BCHW)


def test_a_network_for_one_size_of_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(file.ExportError, match="cannot trace this network for batches of any size: "):
        file.export(Counted(), tmp_path / "model.onnx", SHAPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"opset": 9}, {"opset": 999}, {"batch": 0}])
def test_impossible_options_are_reported(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be a whole number"):
        file.export(small_cnn(), tmp_path / "model.onnx", SHAPE, **wrong)


# -- the command ------------------------------------------------------------------------------------------------------


def cell(folder: Path) -> Path:
    (found,) = records.cell_directories(folder / "multirun" / "adhoc").values()
    return found


def test_a_cell_with_masters(
    run: Callable[..., int], quick: list[str], in_tmp: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["model=capsnet", "recipe=accumulate", "routing=max_min", "model.c1=16", "model.decoder=[8]"]
    assert run(*(word for word in quick if "model.c3" not in word), *small, "model.c2=16") == 0
    directory = cell(in_tmp)
    capfd.readouterr()
    assert main([str(directory), "--inference", "folded", "--batch", "dynamic"]) == 0
    told, complaints = capfd.readouterr()
    assert told.startswith("folded inference, ")
    assert told.splitlines()[-1] == str(directory / "model-folded.onnx")
    assert complaints == ""
    facts = {each.key: each.value for each in onnx.load(directory / "model-folded.onnx").metadata_props}
    assert facts["capsexp.cell"] == directory.name.rpartition("-")[2]
    assert facts["capsexp.inference"] == "folded"
    assert facts["capsexp.classes"] == "4"
    assert facts["capsexp.normalise"].startswith("v / 127.5 - 1")
    assert '"size": 28' in facts["capsexp.augment"]


def test_what_a_cell_cannot_do_is_told_in_one_line(
    run: Callable[..., int], quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*quick) == 0
    directory = cell(in_tmp)
    assert main([str(directory), "--inference", "fast"]) == 2
    told = capsys.readouterr().err
    assert told == (
        "capsexp.export: error: --inference must be dynamic or left out, as this network has no capsule layers, "
        "got 'fast'\n"
    )
    assert main([str(in_tmp)]) == 2
    assert "must hold a finished cell" in capsys.readouterr().err
    assert main([str(directory), "--opset", "3"]) == 2
    assert "opset must be a whole number from 18" in capsys.readouterr().err
    assert main([str(directory), "--out", "own.onnx"]) == 0
    assert Path("own.onnx").is_file()


def test_a_capsule_network_without_masters_has_no_fast_inference() -> None:
    model = capsnet(Dynamic, "folded")
    assert cells._set_way(model, None) == "folded"
    assert cells._set_way(model, "dynamic") == "dynamic"
    model.class_capsules.master_JI = None
    with pytest.raises(ConfigError, match="--inference must be dynamic, as class_capsules has no master coefficients"):
        cells._set_way(model, "fast")
    assert cells._set_way(model, None) == "dynamic"


def test_images_scaled_on_their_own_are_reported() -> None:
    assert cells._normalised("capsexp.data.augment.Augment", "unit") == "v / 255, v in 0..255"
    assert "ColourCrop" in cells._normalised("capsexp.data.augment.ColourCrop", "unit")


def test_a_missing_library_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else name)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"capsexp.export: error: {INSTALL}; onnxruntime not found\n"


@pytest.mark.parametrize(
    ("routing", "why"), [(VariationalBayes, "there are none of VariationalBayes"), (Dynamic, "recipe=accumulate makes")]
)
def test_a_master_that_is_missing_or_does_not_exist(routing: Any, why: str) -> None:
    model = LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=routing,
        backbone=partial(Plain, channels=[4]),
        primary={"types": 2, "dim": 4, "stride": 2},
    )
    with pytest.raises(ConfigError, match=f"class_capsules has no master coefficients .{why}"):
        _set_way(model, "folded")
