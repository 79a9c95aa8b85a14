"""Matrix products: of an activation with a weight, or of two activations."""

from __future__ import annotations

from collections.abc import Sequence

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import (
    Adjoint,
    Broadcast,
    Chain,
    Dense,
    LeftTimes,
    Linear,
    Local,
    Permute,
    RightTimes,
    Scale,
)
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT


@GRADIENT.on("Gemm")
def gemm(site: Site, g: Emit) -> Local:
    """y = alpha op(A) op(B) + beta C. Any of A, B, C may be an activation."""
    a, b, c = site.data, site.input(1), site.input(2)
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    turned_a, turned_b = bool(site.attr("transA", 0)), bool(site.attr("transB", 0))
    if b is None:
        raise Refuse("its second factor is missing")
    swap = [Permute((1, 0))]
    left = Chain(*(swap if turned_a else []), Dense(b, turned_b, alpha))
    right: Linear | None = None
    if site.active[1]:
        first = a
        if turned_a:
            first = g.Transpose(a, perm=[1, 0])
            first.shape = [None, None]
        right = Chain(*(swap if turned_b else []), LeftTimes(first, b, site.y), Scale(alpha))
    bias = None if c is None or not site.active[2] else Chain(Broadcast(c, site.y), Scale(beta))
    offset = None if c is None or site.active[2] else (c if beta == 1.0 else g.Mul(c, beta))
    return Local(left, right, bias, offset=offset)


@GRADIENT.on("MatMul")
def matmul(site: Site, g: Emit) -> Local:
    """y = A B, batch axes broadcast: dy = dA B + A dB. In a view a third input is the bias, a parameter."""
    a, b, y = site.data, site.node.inputs[1], site.y
    row, column = rank_of(a) == 1, rank_of(b) == 1
    if row:
        a, y = widen(g, a, 0), widen(g, y, len(y.shape) - (not column))
    if column:
        b, y = widen(g, b, 1), widen(g, y, len(y.shape))
    back = [
        Drop(axis - len(y.shape))
        for axis, lost in ((len(y.shape) - 2, row), (len(y.shape) - 1, column))
        if lost
    ]
    left = Chain(*([Adjoint(Drop(0))] if row else []), RightTimes(b, a, y), *back)
    right = Chain(*([Adjoint(Drop(1))] if column else []), LeftTimes(a, b, y), *back)
    return Local(left, right, offset=site.input(2))


def widen(g: Emit, v: Value, axis: int) -> Value:
    """v with an axis of size 1 at `axis`."""
    value: Value = g.Unsqueeze(v, g.ints(axis))
    value.shape = [*v.shape[:axis], 1, *v.shape[axis:]]
    return value


class Drop:
    """An axis of size 1 goes; the transpose puts it back."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def push(self, g: Emit, t: Value) -> Value:
        return g.Squeeze(t, g.ints(self.axis))

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Unsqueeze(ct, g.ints(self.axis))


class Contraction:
    """Einsum in one operand, the others fixed: the transpose exchanges that operand's letters and y's."""

    def __init__(self, terms: Sequence[str], result: str, i: int, values: list[Value]) -> None:
        self.terms, self.result, self.i, self.values = terms, result, i, values

    def push(self, g: Emit, t: Value) -> Value:
        return self._apply(g, t, self.terms, self.result)

    def pull(self, g: Emit, ct: Value) -> Value:
        """Letters that stand nowhere else were summed over: ones along them repeat the cotangent."""
        mine = self.terms[self.i]
        terms = [self.result if k == self.i else term for k, term in enumerate(self.terms)]
        summed = [letter for letter in mine if not any(letter in term for term in terms)]
        if not summed:
            return self._apply(g, ct, terms, mine)
        sizes = g.join(*(g.size(self.values[self.i], mine.index(letter)) for letter in summed))
        ones = g.Expand(g.number(1.0, ct), sizes)
        return self._apply(g, ct, [*terms, "".join(summed)], mine, ones)

    def _apply(self, g: Emit, v: Value, terms: Sequence[str], result: str, *more: Value) -> Value:
        operands = [v if k == self.i else value for k, value in enumerate(self.values)] + list(more)
        return g.Einsum(*operands, equation=f"{','.join(terms)}->{result}")


@GRADIENT.on("Einsum")
def einsum(site: Site, g: Emit) -> Local:
    """Any contraction without ellipsis or diagonal. Without '->' y has the letters that stand once, in
    alphabetical order."""
    left, arrow, result = str(site.attr("equation")).replace(" ", "").partition("->")
    terms = left.split(",")
    result = (
        result
        if arrow
        else "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    )
    for i, term in enumerate(terms):
        if site.active[i] and ("." in left or len(set(term)) < len(term)):
            raise Refuse("an Einsum with an ellipsis or a diagonal (a letter twice in one operand)")
    values = list(site.node.inputs)
    return Local(
        *(Contraction(terms, result, i, values) if site.active[i] else None for i in range(len(terms)))
    )
