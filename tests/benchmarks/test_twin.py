"""The torch twin computes what the file computes, on every form that a network of the benchmarks has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.case import case, last_features, onnx_run, operators
from benchmarks.networks import DEFAULT, NETWORKS, pictures, write
from benchmarks.variants import PEERS, difference, obstacle

torch = pytest.importorskip("torch")

from benchmarks.twin import channels_last, twin  # noqa: E402


@pytest.mark.parametrize("name", [*DEFAULT, "resnet50-bn", "unet"])
def test_output_equals_onnxruntimes(name: str, tmp_path: Path) -> None:
    model = write(name, tmp_path / "net.onnx", quick=True)
    x = pictures(model, 2)
    want = onnx_run(model, case(model, x, 1))()
    for made in (twin(model), channels_last(model)):
        with torch.no_grad():
            got = made(torch.from_numpy(x)).numpy()
        # 1e-5 of the largest output: float32 sums in another order, over up to 50 layers.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_torch_has_one_module_for_what_exporters_spell_out(tmp_path: Path) -> None:
    kinds = [type(part).__name__ for part in twin(write("vit-tiny", tmp_path / "net.onnx", quick=True)).parts]
    assert kinds.count("GELU") == 2  # one a block
    assert kinds.count("Linear") == 2 * 6 + 1
    assert not {"Erf", "Softmax", "Add"} & set(kinds)


def test_twins_share_the_weights_of_their_file(tmp_path: Path) -> None:
    model = write("vgg16", tmp_path / "net.onnx", quick=True)
    plain, other = twin(model), twin(model, add=torch.nn.Identity)
    assert plain is not other
    places = [[p.data_ptr() for p in made.parameters()] for made in (plain, other)]
    assert places[0] == places[1]


def test_grad_cam_looks_at_the_last_activation_before_the_last_pool(tmp_path: Path) -> None:
    for name, op in (("vgg16", "Relu"), ("resnet50", "Relu"), ("mobilenet-v2", "Clip")):
        model = onnx.load(write(name, tmp_path / f"{name}.onnx", quick=True))
        layer = last_features(model)
        (node,) = [node for node in model.graph.node if layer in node.output]
        assert node.op_type == op
        later = list(model.graph.node)[list(model.graph.node).index(node) + 1 :]
        assert not {"Conv", "Relu", "Clip"} & {n.op_type for n in later if "head" not in n.name}
    assert last_features(onnx.load(write("vit-tiny", tmp_path / "vit.onnx", quick=True))) is None


def one_node(op: str, **attributes: object) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")] if op == "Conv" else []
    node = helper.make_node(op, ["x", *(w.name for w in weights)], ["y"])
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "y")]
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights))


@pytest.mark.parametrize(
    ("model", "odd"),
    [
        (one_node("MaxPool", kernel_shape=[3, 3], strides=[2, 2]), True),
        (one_node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), False),
        (one_node("MaxPool", kernel_shape=[2, 2]), True),  # strides are 1
        (one_node("Conv", kernel_shape=[3, 3], pads=[0, 0, 1, 1]), True),
        (one_node("Conv", kernel_shape=[3, 3], pads=[1, 0, 1, 0]), False),
    ],
)
def test_overlapping_pools_and_lopsided_pads_are_seen(
    model: onnx.ModelProto, odd: bool, tmp_path: Path
) -> None:
    onnx.save(model, tmp_path / "net.onnx")
    assert (len(operators(tmp_path / "net.onnx")) == 2) == odd


def test_a_form_that_no_network_has_is_refused(tmp_path: Path) -> None:
    onnx.save(one_node("Elu"), tmp_path / "net.onnx")
    with pytest.raises(NotImplementedError, match="Elu"):
        twin(tmp_path / "net.onnx")


def test_a_hook_on_relu_is_no_rival_at_relu6() -> None:
    assert obstacle("captum GuidedBackprop", {"Conv", "Clip"}) is not None
    assert obstacle("captum GuidedBackprop", {"Conv", "Relu"}) is None
    assert obstacle("zennit EpsilonPlus", {"Conv", "Clip"}) is None
    assert difference("captum DeepLift", {"Conv", "Relu", "MaxPool"}) is not None
    assert difference("captum DeepLift", {"Conv", "Relu"}) is None


def test_every_peer_has_a_partner_and_a_maker() -> None:
    from benchmarks import torch_peers
    from benchmarks.variants import FORWARD, GROUPS, OURS

    for peer in PEERS.values():
        assert peer.against == FORWARD or peer.against in OURS
        assert callable(getattr(torch_peers, peer.run))
    grouped = [name for group in GROUPS for name in (*group.ours, *group.peers)]
    assert len(grouped) == len(set(grouped)) and set(NETWORKS) >= set(DEFAULT)
