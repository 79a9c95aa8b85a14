"""The vision transformer: equal to torch's own layers on its weights, and of the size that is published."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxplain.models.vit import vit

Floats = NDArray[np.float32]
SMALL = {"size": 32, "patch": 8, "width": 24, "depth": 3, "heads": 3, "classes": 7}


def weights(model: onnx.ModelProto) -> dict[str, Floats]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(model: onnx.ModelProto, x: Floats) -> Floats:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": x})[0])


def images(count: int, size: int = 32) -> Floats:
    return np.random.default_rng(3).standard_normal((count, 3, size, size), np.float32)


def encoder_layer(torch: Any, stored: dict[str, Any], block: int, heads: int) -> Any:
    """torch's pre-norm encoder layer with the weights of a block: it names them, and puts q, k and v into one."""
    attention, mlp = f"block{block}/attention", f"block{block}/mlp"
    width, hidden = stored[f"{mlp}/matmul1/weight"].shape
    made = torch.nn.TransformerEncoderLayer(
        width, heads, hidden, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
    )
    # The builder draws q, v and k in this order; the last matrix mixes the heads.
    order = [f"{attention}/matmul{i}" for i in (1, 3, 2)]
    state = {
        "self_attn.in_proj_weight": torch.cat([stored[f"{name}/weight"].T for name in order]),
        "self_attn.in_proj_bias": torch.cat([stored[f"{name}/bias"] for name in order]),
        "self_attn.out_proj.weight": stored[f"{attention}/matmul4/weight"].T,
        "self_attn.out_proj.bias": stored[f"{attention}/matmul4/bias"],
        "linear1.weight": stored[f"{mlp}/matmul1/weight"].T,
        "linear1.bias": stored[f"{mlp}/matmul1/bias"],
        "linear2.weight": stored[f"{mlp}/matmul2/weight"].T,
        "linear2.bias": stored[f"{mlp}/matmul2/bias"],
        "norm1.weight": stored[f"{attention}/layer_norm1/scale"],
        "norm1.bias": stored[f"{attention}/layer_norm1/bias"],
        "norm2.weight": stored[f"{mlp}/layer_norm1/scale"],
        "norm2.bias": stored[f"{mlp}/layer_norm1/bias"],
    }
    made.load_state_dict(state)
    return made.double().eval()


def reference(torch: Any, model: onnx.ModelProto, x: Floats, depth: int, heads: int) -> NDArray[np.float64]:
    stored = {name: torch.tensor(value).double() for name, value in weights(model).items()}
    kernel = stored["embed/conv1/weight"]
    with torch.no_grad():
        patches = torch.nn.functional.unfold(
            torch.tensor(x).double(), kernel.shape[2:], stride=kernel.shape[2:]
        )
        tokens = patches.transpose(1, 2) @ kernel.flatten(1).T + stored["embed/conv1/bias"]
        token = stored["embed/token1/weight"].expand(len(x), -1, -1)
        y = torch.cat([token, tokens], 1) + stored["embed/position1/weight"]
        for block in range(1, depth + 1):
            y = encoder_layer(torch, stored, block, heads)(y)
        scale, bias = stored["head/layer_norm1/scale"], stored["head/layer_norm1/bias"]
        y = torch.nn.functional.layer_norm(y, y.shape[-1:], scale, bias, 1e-6)[:, 0]
        return np.asarray((y @ stored["head/gemm1/weight"].T + stored["head/gemm1/bias"]).numpy())


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 1, "mlp": 2}, {"size": 48, "patch": 16, "width": 32, "heads": 4, "depth": 1, "seed": 5}],
    ids=["small", "one head", "one block"],
)
def test_output_equals_torchs_own_transformer(options: dict[str, int]) -> None:
    torch = pytest.importorskip("torch")
    given = SMALL | options
    model, x = vit(**given), images(2, given["size"])
    want = reference(torch, model, x, given["depth"], given["heads"])
    # 1e-5 of the largest logit: float32 against float64 over a few blocks.
    np.testing.assert_allclose(run(model, x), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_model_is_valid_and_its_batch_is_free() -> None:
    model = vit(**SMALL)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert all(tensor.HasField("raw_data") for tensor in model.graph.initializer)
    x = images(3)
    together, alone = run(model, x), np.concatenate([run(model, x[i : i + 1]) for i in range(3)])
    # float32 kernels may sum in another order for another batch size.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_nodes_are_those_of_exporters() -> None:
    ops = Counter(node.op_type for node in vit(**SMALL).graph.node)
    depth = SMALL["depth"]
    assert (ops["Softmax"], ops["Erf"], ops["LayerNormalization"]) == (depth, depth, 2 * depth + 1)
    assert ops["MatMul"] == 8 * depth  # q, k, v, scores, mix, heads joined, two layers
    assert (ops["Conv"], ops["Gemm"], ops["Expand"]) == (1, 1, 1)


def test_seed_decides_every_byte() -> None:
    first, again, other = (
        vit(**SMALL, seed=seed).SerializeToString(deterministic=True) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_outputs_are_sane_at_full_depth() -> None:
    y = run(vit(**SMALL | {"depth": 12}), images(2))
    assert 1e-2 < y.std() < 1e2
    # Deep random nets pull all inputs together; a thousand times float32's rounding must still remain.
    assert np.abs(y[0] - y[1]).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize(("width", "heads", "parameters"), [(192, 3, 5_717_416), (384, 6, 22_050_664)])
def test_full_size_has_the_parameters_of_the_paper(width: int, heads: int, parameters: int) -> None:
    stored = weights(vit(width=width, heads=heads))
    keys = ("/weight", "/bias", "/scale")
    assert sum(w.size for key, w in stored.items() if key.endswith(keys)) == parameters


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 30}, "size must be a multiple of patch = 8"),
        ({"heads": 5}, "width must be a multiple of heads = 5"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        vit(**SMALL | options)
