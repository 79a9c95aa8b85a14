"""What the cone of a window computes is what a whole forward pass over the changed image does, at every place.

Tolerance 1e-5 of the largest change: sums of float32 in the same order but for residual additions, which onnxruntime
joins with a convolution or not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from onnxplain import models
from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.resnet import resnet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.cone import compile_cone
from onnxplain.rewriter.cone.emit import METADATA
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.load import load
from onnxplain.rewriter.scores import scored
from onnxplain.runtime.perturb.probing import Asked, Places, Prober
from tests.rewriter.nets import net

DATA = Path(__file__).parents[2] / "data" / "golden"
CLOSE = 1e-5
HEAD = "f = Flatten(h) s = ReduceMax <keepdims=1> (f, one) y = Concat <axis=1> (f, s)"

BODIES = {
    "conv": "h = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)",
    "strided": "h = Conv <kernel_shape=[3,3], strides=[2,3], pads=[0,2,1,0]> (x, w)",
    "dilated": "h = Conv <kernel_shape=[3,3], dilations=[2,1], pads=[2,0,2,1]> (x, w)",
    "same": 'h = Conv <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"> (x, w)',
    "chain": "a = Conv <kernel_shape=[3,3]> (x, w) b = Relu(a) c = MaxPool <kernel_shape=[2,2], strides=[2,2]> (b) "
    "h = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (c, v)",
    "residual": "a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w) b = Relu(a) "
    "c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (b, v) d = Add(a, c) h = Relu(d)",
    "branches": "a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w) "
    "b = AveragePool <kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1], count_include_pad=1> (x) "
    "h = Concat <axis=1> (a, b, x)",
    "max_pool": "a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w) n = Neg(a) "
    "h = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (n)",
    "ceil": "h = MaxPool <kernel_shape=[3,2], strides=[2,2], ceil_mode=1> (x)",
    "uncounted": "a = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x) "
    "h = Conv <kernel_shape=[1,1]> (a, u)",
    "skipping": "a = Conv <kernel_shape=[1,1], strides=[3,2]> (x, u) h = Conv <kernel_shape=[3,3]> (a, v)",
    "pad": "p = Constant <value=int64[8] {0,0,1,2,0,0,0,1}> () q = Constant <value=float {-2.0}> () "
    "a = Pad(x, p, q) h = Conv <kernel_shape=[3,3]> (a, w)",
    "lrn": "a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w) h = LRN <size=3, alpha=0.3> (a)",
    "constants": "a = Conv <kernel_shape=[3,3]> (x, w) b = Mul(a, s4) c = PRelu(b, s4) "
    "d = Clip(c, lo, hi) e = Softmax <axis=1> (d) h = Conv <kernel_shape=[2,2]> (e, t)",
    "split": "a, b = Split <axis=1, num_outputs=2> (q4) q4 = Conv <kernel_shape=[3,3]> (x, w) h = Mul(a, b)",
    "mean": "a = Conv <kernel_shape=[3,3]> (x, w) b = Relu(a) h = GlobalAveragePool(b)",
    "reduced": "a = Conv <kernel_shape=[3,3]> (x, w) b = Relu(a) m = Constant <value=int64[2] {3,2}> () "
    "h = ReduceMean <keepdims=0> (b, m)",
    "gate": "a = Conv <kernel_shape=[3,3]> (x, w) m = GlobalAveragePool(a) g = Sigmoid(m) h = Mul(a, g)",
    "norm": "a = Conv <kernel_shape=[3,3]> (x, w) b = InstanceNormalization(a, g4, g4) "
    "h = Conv <kernel_shape=[3,3]> (b, v)",
    "map": "a = Conv <kernel_shape=[3,3]> (x, w) h = Mul(a, places)",
}


def small(name: str) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    shapes = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "u": (4, 3, 1, 1), "t": (2, 4, 2, 2), "s4": (4, 1, 1)}
    shapes |= {"g4": (4,), "places": (1, 1, 9, 10)}
    text = BODIES[name]
    if name == "split":
        first, second, third = text.split(") ")
        text = f"{second}) {first}) {third}"
    graph = net(f"g (float[N,3,11,12] x) => (float[N,K] y) {{ {text} {HEAD} }}")
    values = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    values |= {"lo": np.array(-0.8, np.float32), "hi": np.array(1.5, np.float32)}
    tensors: dict[str, npt.NDArray[Any]] = {**values, "one": np.array([1])}
    used = {i for node in graph.graph.node for i in node.input}
    graph.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, key) for key, value in tensors.items() if key in used
    )
    return graph


def every(prober: Prober, k: tuple[int, int]) -> Places:
    rows, columns = prober.size
    grid = np.meshgrid(np.arange(rows - k[0] + 1), np.arange(columns - k[1] + 1), indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 2)


def compare(
    model: onnx.ModelProto | Path,
    image: npt.NDArray[np.float32],
    k: tuple[int, int],
    places: Places | None = None,
) -> Prober:
    """Both engines; asserts that they agree, and gives the incremental one."""
    ask = {"score": "output", "batch": 7, "threads": 1}
    full, cone = (Prober(model, image, Asked(engine=e, **ask)) for e in ("full", "incremental"))  # type: ignore[arg-type]
    places = every(full, k) if places is None else places
    fills = np.random.default_rng(2).standard_normal((len(places), full.channels, *k)).astype(np.float32)
    wanted, found = (p.windows(places, k, fills.__getitem__) for p in (full, cone))
    change = np.abs(wanted - full.base).max()
    assert change > 0 and np.abs(wanted - found).max() <= CLOSE * change
    assert full.forwards == cone.forwards == len(places)
    return cone


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("k", [(1, 1), (3, 2)])
def test_the_cone_equals_whole_copies(name: str, k: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 11, 12)).astype(np.float32)
    compare(small(name), image, k)


@pytest.mark.parametrize("name", sorted(p.stem for p in DATA.glob("*.onnx") if not p.stem.startswith("mlp")))
def test_golden_nets(name: str) -> None:
    with np.load(DATA / f"{name}.npz") as stored:
        image = stored["x"]
    if image.ndim == 4:
        compare(DATA / f"{name}.onnx", image, (2, 3))


def test_channels_last() -> None:
    """A picture with its channels behind, as models of other frameworks take it."""
    graph = net(
        "g (float[N,11,12,3] x) => (float[N,K] y) { n = Transpose <perm=[0,3,1,2]> (x) "
        f"{BODIES['conv'].replace('(x', '(n')} b = Transpose <perm=[0,2,3,1]> (h) y = Flatten(b) }}"
    )
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    image = np.random.default_rng(0).standard_normal((1, 11, 12, 3)).astype(np.float32)
    cone = compare(graph, image, (2, 2))
    assert cone.channels == 3 and cone.size == (11, 12)


@pytest.mark.parametrize("make", [vgg, resnet, mobilenet_v2])
def test_real_architectures(make: object) -> None:
    """Few channels, so that a test can afford them; the full sizes are in the benchmark."""
    depth = {vgg: (16,), resnet: (50,), mobilenet_v2: ()}[make]  # type: ignore[index]
    model = make(*depth, size=96, width=0.25, classes=10)  # type: ignore[operator]
    rng = np.random.default_rng(0)
    places = np.concatenate([[[0, 0], [0, 86], [86, 0], [86, 86]], rng.integers(0, 87, (40, 2))])
    image = rng.standard_normal((1, 3, 96, 96)).astype(np.float32)
    # A window changes logits of ResNet by 1e-2 of their size: 1e-5 of that is below what float32 can tell.
    prober = compare_loosely(model, image, (10, 10), places)
    assert "incremental" in prober.engines[10, 10]


def compare_loosely(
    model: onnx.ModelProto, image: npt.NDArray[np.float32], k: tuple[int, int], places: Places
) -> Prober:
    """1e-4 of the largest change, or float32 rounding of the scores themselves (4e-6 of the largest)."""
    full, cone = (Prober(model, image, Asked("logit", engine=e, batch=8)) for e in ("full", "incremental"))
    fills = np.random.default_rng(2).standard_normal((len(places), full.channels, *k)).astype(np.float32)
    wanted, found = (p.windows(places, k, fills.__getitem__) for p in (full, cone))
    change = float(np.abs(wanted - full.base).max())
    assert np.abs(wanted - found).max() <= max(1e-4 * change, 4e-6 * float(np.abs(wanted).max()))
    return cone


def test_lenet_everywhere() -> None:
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    cone = compare(models.path("mnist_lenet"), image, (4, 4))
    assert cone.forwards == 25 * 25


def test_windows_come_in_any_order_and_repeated() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 11, 12)).astype(np.float32)
    prober = Prober(small("chain"), image, Asked("output", engine="incremental", batch=5))
    places = np.array([[9, 2], [0, 0], [9, 2], [4, 10], [0, 0]])
    fill = np.random.default_rng(1).standard_normal((5, 3, 2, 2)).astype(np.float32)
    fill[2] = fill[0]
    found = prober.windows(places, (2, 2), fill.__getitem__)
    order = np.array([3, 1, 0, 4, 2])
    again = prober.windows(places[order], (2, 2), lambda i: fill[order[i]])
    assert (found[0] == found[2]).all() and (found[1] != found[4]).any()
    assert (again == found[order]).all()


def test_a_file_says_which_windows_go_together() -> None:
    of = scored(load(vgg(11, size=64, width=0.1, classes=4)))
    cone = compile_cone(of, (10, 10), (3, 2))
    model = cone.probe()
    (entry,) = (p.value for p in model.metadata_props if p.key == METADATA)
    about = json.loads(entry)
    assert about["window"] == [10, 10] and len(about["rows"]) == 55
    assert len(set(about["rows"])) == 3 and len(set(about["columns"])) == 2
    onnx.checker.check_model(model)
    onnx.checker.check_model(cone.record())


def test_vgg_is_bounded_by_ten_times() -> None:
    """The textbook count for one crop a layer is 7.7 on VGG-16; cutting at the border and by residue saves more."""
    of = scored(load(vgg(16, width=0.125)))
    one, many = (compile_cone(of, (10, 10), groups).plan.macs for groups in ((1, 1), (8, 8)))
    full = compile_cone(of, (10, 10)).plan.macs_full
    assert full / one > 7 and full / many > 9


def test_a_cone_that_saves_nothing_is_not_taken() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 11, 12)).astype(np.float32)
    prober = Prober(small("norm"), image, Asked("output", engine="auto", batch=4))
    prober.windows(every(prober, (8, 8)), (8, 8), lambda i: np.zeros((len(i), 3, 8, 8), np.float32))
    assert prober.engines[8, 8].startswith("full: a cone saves only")


def test_a_fixed_batch_is_refused() -> None:
    graph = net("g (float[2,3,11,12] x) => (float[2,K] y) { y = Flatten(x) }")
    image = np.zeros((1, 3, 11, 12), np.float32)
    prober = Prober(graph, image, Asked("output", engine="incremental"))
    with pytest.raises(OptionError, match="batch is fixed at 2; take engine='full'"):
        prober.windows(np.zeros((1, 2), np.int64), (1, 1), lambda i: np.zeros((len(i), 3, 1, 1), np.float32))
