"""The criterion ρ(S): stored values, and data whose signal is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.graph import prepare
from onnxplain.runtime.estimate import quality, rho
from onnxplain.runtime.estimate.quality import Part, collect, moments_of
from onnxplain.runtime.estimate.solve import solve
from tests.runtime.small import model_of

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("net", ["mlp_bias", "mlp_nobias", "cnn_bias", "cnn_nobias", "overlap_pool"])
def test_golden_values(net: str) -> None:
    """The stored ρ of S_w, S_a and S_a± are those in sample, where the last two are 1 by construction. Ours come from
    float32 activations: measured 1e-7, 1e-5 accepted."""
    model = onnx.load(DATA / "golden" / f"{net}.onnx")
    with np.load(DATA / "patterns" / f"{net}.npz") as file:
        known = {key: file[key] for key in file.files}
    layouts, weights, collected = collect(model, known["pattern_data"], positions=10**6, raw_input=True)
    names = {node.name: node.outputs[0].name for node in prepare(model).nodes}
    for node, layout in layouts.items():
        u, y = (np.concatenate(pieces, axis=2) for pieces in zip(*collected[node], strict=True))
        moments = moments_of(layout, weights[node], u, y)
        w = layout.neurons_of(weights[node])[0]
        linear, plus, minus = (solve(moments, name)[0][0] for name in ("linear", "plus", "minus"))
        got = []
        for o in range(layout.neurons):
            all_ = Part(u[0, :-1].T, u[0, :-1].T @ w[o], y[0, o] > 0)
            along = w[o] / (w[o] @ w[o])
            pairs = ((along, along), (linear[o], linear[o]), (plus[o], minus[o]))
            got.append([rho(a, b, all_, all_, ridge=0.0) for a, b in pairs])
        want = known[f"rho_w_a_apm_{names[node]}"]
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert want[:, 0].max() < 0.9, "S_w leaves something of the output in the distractor"


def toy(mu: float, pictures: int = 300) -> tuple[onnx.ModelProto, np.ndarray]:
    """x = a_s y + A ε in 4 numbers, ε of two, with one neuron that filters ε out: w ⟂ A. ε has the mean mu. A wrong
    S(x) leaves a multiple of y in the distractor, where nothing covers it."""
    draw = np.random.default_rng(2)
    mixing, signal = draw.normal(size=(4, 2)), draw.normal(size=4)
    basis = np.linalg.svd(mixing.T)[2][-1]
    weight = basis / (basis @ signal)
    y, noise = draw.uniform(-1, 1, (pictures, 1)), mu + draw.normal(size=(pictures, 2))
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="neuron", transB=1)
    model = model_of([node], {"x": ["N", 4]}, {"y": ["N", 1]}, {"w": weight[None].astype(np.float32)})
    return model, (y * signal + noise @ mixing.T).astype(np.float32)


def test_the_estimators_are_told_apart() -> None:
    """Linear and two-sided estimators leave no trace of the output in the distractor, but for chance (about 1 / √300
    in a third of 900 samples); the weights and a random direction leave all of it: Kindermans' Fig. 3."""
    model, x = toy(0.0, 900)
    found = {q.signal: q for q in quality(model, x, raw_input=True)}
    assert set(found) == {"random", "weights", "linear", "plus-minus", "plus-minus-within"}
    for name in ("linear", "plus-minus", "plus-minus-within"):
        assert found[name].everywhere[0] > 0.8, name
        assert found[name].inside[0] > 0.6, name
    for name in ("random", "weights"):
        assert found[name].everywhere[0] < 0.05, name
    assert found["linear"].node == "neuron" and found["linear"].everywhere.shape == (1,)


def test_a_mean_misleads_equation_seven_inside() -> None:
    """docs/methods/patterns.md: over all samples Eq. 7 looks as good as the others, inside y > 0 it does not."""
    model, x = toy(3.0, 900)
    found = {q.signal: q for q in quality(model, x, raw_input=True)}
    assert found["plus-minus"].inside[0] < 0.3
    assert found["plus-minus-within"].inside[0] > 0.7 and found["linear"].inside[0] > 0.7


def test_the_same_seed_gives_the_same_numbers() -> None:
    model, x = toy(0.0, 60)
    a, b = (quality(model, x, raw_input=True, seed=4) for _ in range(2))
    assert [q.everywhere.tolist() for q in a] == [q.everywhere.tolist() for q in b]


def test_no_distractor_no_answer() -> None:
    """S_x leaves nothing over: 0/0."""
    x = np.random.default_rng(0).normal(size=(50, 1))
    part = Part(x, x[:, 0], x[:, 0] > 0)
    assert np.isnan(rho(np.ones(1), np.ones(1), part, part))


def test_what_is_refused() -> None:
    model, x = toy(0.0, 20)
    with pytest.raises(OptionError, match="no signal estimator 'best'"):
        quality(model, x, raw_input=True, signals=("best",))
    with pytest.raises(OptionError, match="11 pictures are too few"):
        quality(model, x[:11], raw_input=True)
