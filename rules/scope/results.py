"""Results of the linear interpreter: columns of F, the residual, contributions of input and biases.

Navarrete et al. sections 3 to 5; docs/methods/linearscope.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...rewriter.emit import Emit
from ...rewriter.errors import TargetError
from ...rewriter.graph import Value
from ...rewriter.results import Result
from ...rewriter.rows import Along
from ...rewriter.scene import Stage, is_float
from ...rewriter.tape import Tape, pull, push
from ...rewriter.target import (
    Samples,
    Start,
    Target,
    branches,
    count_of,
    interleaved,
    leading,
    start,
    vet_leading,
)

TANGENT, RESPONSE, RESIDUAL, CONTRIBUTIONS = "tangent", "response", "residual", "contributions"

Values = Mapping[str, Value]


def begin(stage: Stage, target: Target) -> Start:
    """One-hot rows, or the cotangent that is fed; its inputs are added to the file's."""
    with stage.g.at("target"):
        found = start(stage.graph, stage.head, target, stage.g, stage.wrt[0].shape[0])
    stage.inputs += found.inputs
    stage.g.seeds += found.seeds
    whole = stage.graph.rows.whole
    stage.g.lead = "K" if target == "cotangent" and not whole else stage.wrt[0].shape[0]
    return found


def frozen(stage: Stage) -> Tape:
    """The tape of the frozen network."""
    return stage.tape(stage.rules, stage.wrt)


def named(stage: Stage, kind: str, x: Value) -> str:
    return kind if len(stage.wrt) == 1 else f"{kind}/{x.name}"


def each(g: Emit, rows: Sequence[Value], probes: int, run: Callable[[Sequence[Value]], Value]) -> Value:
    """run(rows), or with a fixed number of probes one after the other: every branch has one row, as the recorded
    values have, so that blocked layouts and fused kernels stay. Masks, winners and weights are shared."""
    if not probes:
        return run(rows)
    parts = [branches(g, value, probes) for value in rows]
    made = [run(row) for row in zip(*parts, strict=True)]
    value: Value = made[0] if probes == 1 else g.Concat(*made, axis=0)
    return value


def columns(stage: Stage, target: Target) -> list[Result]:
    """Input `tangent` (K, ...) of the input's shape -> `response` F tangent (K, ...) of the output's: with unit
    pictures the columns of F, its projective filters (docs/methods/linearscope.md). One primal x0 for all of them."""
    vet_leading(stage.graph, stage.head, "F, column by column,")
    g, probes = stage.g, int(stage.options["probes"])
    lead = probes or "K"
    rows = [stage.add_input(named(stage, TANGENT, x), x, [lead, *x.shape[1:]]) for x in stage.wrt]
    g.seeds += tuple(rows)
    g.lead = stage.wrt[0].shape[0] if probes else "K"  # a branch has the rows of the input
    names = [x.name for x in stage.wrt]
    recall(stage)

    def run(row: Sequence[Value]) -> Value:
        return reached(stage, push(frozen(stage), dict(zip(names, row, strict=True)), g))

    return [(RESPONSE, each(g, rows, probes, run), [lead, *stage.head.shape[1:]])]


def reached(stage: Stage, tangents: Values) -> Value:
    """The head's tangent. TargetError where the frozen network does not depend on the input."""
    found = tangents.get(stage.head.name)
    if found is None:
        raise TargetError(
            f"{stage.head.name!r} does not depend on {stage.wrt[0].name!r} once softmax and gates are taken as constant"
        )
    return found


def residual(stage: Stage, target: Target) -> list[Result]:
    """`residual` r(x0) (N, ...), of the output's shape: what the frozen network says to an input of zeros. All of the
    output where softmax and gates cut it off from the input."""
    g, head, tape = stage.g, stage.head, frozen(stage)
    found = push(tape, {}, g, affine=True).get(head.name)
    if found is None:
        made = any(step.site.y.name == head.name for step in tape.steps)
        live = made or head.name in {x.name for x in stage.wrt}
        found = g.Expand(g.number(0.0, head), g.Shape(head)) if live else head
    recall(stage)
    return [(RESIDUAL, found, list(head.shape))]


def contributions(stage: Stage, target: Target) -> list[Result]:
    """`contributions` (rows, terms): z_c = Σ terms, the share F_c x0 of the input first, then ⟨q_t, κ_t⟩ of every
    node t with a constant part κ_t, q_t the sensitivity of z_c to it: one backward pass (Theorem 1 for any graph;
    docs/methods/linearscope.md, "Contributions"). The card's option `terms` names them."""
    g, tape = stage.g, frozen(stage)
    found = begin(stage, target)
    rows: list[Value] = []
    names: list[str] = []
    for seed in found.seeds:
        cotangents = pull(tape, {stage.head.name: seed}, g)
        if not any(x.name in cotangents for x in stage.wrt):
            reached(stage, {})
        count = count_of(stage.graph, stage.head, seed, g)
        terms = {
            "input": _total(
                stage, count, [(cotangents[x.name], x, x) for x in stage.wrt if x.name in cotangents]
            )
        }
        for step in tape.steps:
            y = step.site.y
            if y.name in cotangents and step.local.offset is not None:
                with g.at(step.site.name), g.guarding(step.pulled or step.pushed):
                    terms[step.site.name] = _total(stage, count, [(cotangents[y.name], step.local.offset, y)])
        names = list(terms)
        rows.append(g.Concat(*terms.values(), axis=1))
    recall(stage)
    stage.extras.setdefault("chosen", {})["terms"] = names
    value = interleaved(g, rows, [len(names)])
    return [(CONTRIBUTIONS, value, [leading(target, stage.wrt[0].shape[0]), len(names)])]


def _total(stage: Stage, count: Value, pairs: Sequence[tuple[Value, Value, Value]]) -> Value:
    """Σ ⟨a, b⟩ of each row, (rows, 1); b may broadcast to a, which is a cotangent of the tensor y."""
    g = stage.g
    sums = []
    for a, b, y in pairs:
        product, place = g.times(a, b), stage.graph.rows.place(y.name)
        if place is None or place == Along(0):
            lines = g.Reshape(product, g.join(count, g.ints(-1)))
        else:
            lines = Samples(stage.graph, y, g, product, count).flat
        sums.append(g.ReduceSum(lines, g.ints(1), keepdims=1))
    return g.total(sums)


def recall(stage: Stage) -> None:
    """Of several inputs that may be explained the card names those that are: no output of the file is called after
    them."""
    if sum(is_float(x) for x in stage.graph.inputs) > 1:
        stage.extras.setdefault("chosen", {})["explained"] = [x.name for x in stage.wrt]


__all__ = ["begin", "columns", "contributions", "each", "frozen", "residual"]
