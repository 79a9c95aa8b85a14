"""PatternNet and PatternAttribution: patterns in place of weights on the way back (Kindermans et al. 2017)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Graph, Value
from ..rewriter.layers import candidates
from ..rewriter.linear import Gated, Local
from ..rewriter.method import Option, Options
from ..rewriter.rules import Match, Rule, Rules
from ..rewriter.site import Refuse, Site, rank_of
from .borrowed import CHOICES, LINEAR, MOVES, borrowed, recorded
from .gates import keep
from .gradient import GRADIENT
from .reweigh import reweighed

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Put: TypeAlias = Callable[[Emit, Value, Value], Value]
"""(g, weight, pattern) -> what stands in place of the weight."""

ESTIMATORS = ("plus", "linear", "plus-within", "weights")
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ACTIVATIONS = frozenset(
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid "
    "Softplus Softsign Swish Tanh ThresholdedRelu".split()
)
RIGHT = MOVES | CHOICES | LINEAR | ACTIVATIONS
"""Operators at which the signal is the gradient with other weights; so it is behind an activation."""
WHY = "its paper has no rule for it; the plain derivative"


@dataclass(frozen=True)
class Patterns:
    """The signal that each neuron answers to, estimated on data.

    arrays: node name -> estimator -> the pattern, in the shape of the node's weight as it stands in the ONNX file.
    Nodes are those of the canonical form (`rewriter.canonical`), named by their convolution or product.
    provenance: sha256 of the model, number of images, version, health of the fit.
    """

    arrays: Mapping[str, Mapping[str, Array]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of names, shapes and numbers."""
        whole = hashlib.sha256()
        for node in sorted(self.arrays):
            for estimator, array in sorted(self.arrays[node].items()):
                whole.update(f"{node}\0{estimator}\0{array.dtype}{array.shape}\0".encode())
                whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()

    def to_record(self) -> dict[str, Any]:
        """What the card of an emitted file keeps: where the patterns come from, not the numbers."""
        kept = ("sha256", "images", "list", "version")
        known = {key: self.provenance[key] for key in kept if key in self.provenance}
        return {"patterns": self.digest, "nodes": len(self.arrays), **known}


def pattern_net(options: Options) -> Rules:
    """The gradient with the pattern A in place of the weight W: s = Aᵀ ct. The projection of the signal.

    options: `patterns` (Patterns), `estimator` (one of ESTIMATORS), `last` (None, or the estimator of the weighted
    nodes that no other weighted node follows). At a node whose pattern is missing or has another shape the rule
    refuses. LRN passes the cotangent unchanged. Products of two activations, and operators that are not listed, keep
    their gradient, which is recorded.

    Raises OptionError for patterns= that are missing or no Patterns. Source: docs/methods/patterns.md.
    """
    return _rules(options, lambda g, w, a: a)


def pattern_attribution(options: Options) -> Rules:
    """As `pattern_net` with W ⊙ A in place of the weight: the signal's share in the output, ct ⊙ of it kept apart by
    input. wᵀa = 1, so that an affine node passes on exactly what it gets, but for what falls on zero padding.

    Source: docs/methods/patterns.md.
    """
    return _rules(options, lambda g, w, a: g.Mul(w, a))


def _rules(options: Options, put: Put) -> Rules:
    patterns, default, last = options.get("patterns"), options["estimator"], options.get("last")
    given = check("patterns", patterns)
    if given is None and (default != "weights" or last not in (None, "weights")):
        raise OptionError(
            f"estimator={default!r} needs patterns=, a file of `onnxplain fit patterns`; or choose estimator='weights'"
        )

    plain = recorded(WHY)

    def rule(site: Site, g: Emit) -> Local:
        i = _explained(site)
        if i is None:
            return plain(site, g)
        gradient = GRADIENT.find(site)
        assert gradient is not None, site.op
        local = gradient(site, g)
        estimator = last if last is not None and getattr(site, "last", False) else default

        def f(w: Value) -> Value:
            return put(g, w, _pattern(site, g, w, given, estimator))

        maps = (part and (reweighed(part, f, g) if k == i else part) for k, part in enumerate(local.maps))
        return Local(*maps, offset=local.offset)

    rule.__name__ = f"pattern[{default}]"
    pairs: dict[Match, Rule] = {WEIGHTED: rule, "LRN": keep}
    rules = borrowed(RIGHT, WHY) | pairs
    return rules | {_bottlenecks(): projected(rules)} if options.get("project") else rules


def projected(rules: Rules) -> Rule:
    """The rule, behind ct / max |ct| of each sample: patterns of many layers in a row leave the range of a float."""

    def rule(site: Site, g: Emit) -> Local:
        base = rules.find(site)
        if base is None:
            raise Refuse("no rule for this operator")
        axes = g.ints(*range(1, rank_of(site.y)))

        def largest_is_one(g: Emit, ct: Value) -> Value:
            top = g.ReduceMax(g.Abs(ct), axes, keepdims=1)
            return g.Div(ct, g.Where(g.Greater(top, 0.0), top, 1.0))

        return Local(*(None if part is None else Gated(part, largest_is_one) for part in base(site, g).maps))

    rule.__name__ = "projected"
    return rule


def _bottlenecks() -> Match:
    """Nodes whose output every path goes through: a factor there is one of the whole map."""
    known: dict[int, tuple[Graph, frozenset[str]]] = {}

    def match(site: Site) -> bool:
        graph = site.graph
        if id(graph) not in known:
            found = candidates(graph, graph.inputs, graph.outputs[0])
            known[id(graph)] = graph, frozenset(value.name for value in found)
        return site.y.name in known[id(graph)][1]

    return match


def _explained(site: Site) -> int | None:
    """Which operand of the product is an activation; None where there is no pattern to use: both are, or only the
    bias. Refuses a weight that stands first or has more than two axes."""
    operands = (*site.active, False, False)[:2]
    if operands == (True, True) or not any(operands):
        return None
    w = site.node.inputs[1]
    if operands == (False, True):
        raise Refuse("patterns are fitted for a product whose weight stands second; here it stands first")
    if site.op == "MatMul" and (w.shape is None or len(w.shape) != 2):
        raise Refuse("patterns are fitted for a weight of two axes; this product has another")
    return 0


def _pattern(site: Site, g: Emit, w: Value, patterns: Patterns | None, estimator: str) -> Value:
    if estimator == "weights":
        return along_weights(site, g, w)
    assert patterns is not None
    fitted = patterns.arrays.get(site.name)
    if fitted is None:
        raise Refuse(
            "the patterns hold none for this node; fit them on this model with `onnxplain fit patterns`"
        )
    if estimator not in fitted:
        raise Refuse(f"the patterns hold no {estimator!r} for this node, only {', '.join(fitted)}")
    a, shape = fitted[estimator], site.node.inputs[1].shape
    if shape is None or list(a.shape) != list(shape):
        raise Refuse(f"its weight has the shape {shape}, its pattern {list(a.shape)}; fit the patterns again")
    if not np.isfinite(a).all():
        raise Refuse("its pattern holds NaN or infinity; fit the patterns again")
    return g.constant(np.ascontiguousarray(a, w.dtype or np.float32))


def along_weights(site: Site, g: Emit, w: Value) -> Value:
    """a = w / wᵀw for every neuron: the estimator S_w, exact where the distractor is white noise. A neuron without
    weights gets the pattern 0."""
    grouped, axes = _neurons(site, w)
    seen = w if grouped is None else g.Reshape(w, g.ints(*grouped))
    square = g.ReduceSumSquare(seen, g.ints(*axes), keepdims=1)
    a: Value = g.Div(seen, g.Where(g.Greater(square, 0.0), square, g.number(1.0, w)))
    return a if grouped is None else g.Reshape(a, g.Shape(w))


def _neurons(site: Site, w: Value) -> tuple[list[int] | None, list[int]]:
    """(shape to see the weight in, the axes over which one neuron's weights lie)."""
    shape = list(site.node.inputs[1].shape)
    if site.op == "Conv":
        return None, list(range(1, len(shape)))
    if site.op != "ConvTranspose":
        return None, [1 if site.op == "Gemm" and site.attr("transB", 0) else 0]
    group = int(site.attr("group", 1))
    return [group, -1, *shape[1:]], [1, *range(3, len(shape) + 1)]


def check(name: str, value: Any) -> Patterns | None:
    """The option `patterns`. Raises OptionError for what is no Patterns."""
    if value is None or isinstance(value, Patterns):
        return value
    raise OptionError(
        f"{name}: {type(value).__name__} is no Patterns; give those of fit_patterns, or the file of "
        "`onnxplain fit patterns`"
    )


OPTIONS = MappingProxyType(
    {
        "patterns": Option(None, None, "the file of `onnxplain fit patterns`, fitted on this model", check),
        "estimator": Option(
            "plus",
            ESTIMATORS,
            "how signal is told from distractor: plus (Eq. 7, over y > 0), linear (S_a), plus-within (the covariance "
            "inside y > 0), weights (S_w, needs no patterns)",
        ),
        "project": Option(
            False,
            (False, True),
            "bring the signal to a largest value of 1 wherever all paths meet: only its scale is lost",
        ),
        "last": Option(None, (None, *ESTIMATORS), "the estimator of the layers that no other layer follows"),
    }
)
