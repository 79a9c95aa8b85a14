"""Zero padding that stands in front of a convolution becomes the convolution's own."""

from __future__ import annotations

import numpy as np

from ..emit import Emit
from ..graph import Node, Value
from .view import View


def absorb_pad(view: View, node: Node, g: Emit) -> Node | None:
    """Conv of Pad(x) with zeros around the spatial axes is Conv of x with larger pads. A rule that does not look at
    the values of the input would otherwise hand relevance to the padding. Returns the new node, or None."""
    if node.domain or node.op != "Conv" or str(node.attrs.get("auto_pad", "NOTSET")) != "NOTSET":
        return None
    pad, window = view.maker(node.inputs[0]), node.attrs.get("kernel_shape")
    if pad is None or window is None or view.only_reader(node.inputs[0]) is not node:
        return None
    rank = len(window) + 2
    more = _zeros_around(view, pad, rank)
    if more is None:
        return None
    own = list(node.attrs.get("pads") or [0] * 2 * len(window))
    pads = [a + b for a, b in zip(own, [*more[2:rank], *more[rank + 2 :]], strict=True)]
    inputs = [pad.inputs[0], *node.inputs[1:]]
    return view.replace(
        [pad, node], node.op, node.name, {**node.attrs, "pads": pads}, inputs, node.outputs[0]
    )


def _zeros_around(view: View, pad: Node, rank: int) -> list[int] | None:
    """Cells added before and after each axis, where they are zeros, known, and spatial only."""
    if pad.domain or pad.op != "Pad" or str(pad.attrs.get("mode", "constant")) != "constant":
        return None
    extra: list[Value | None] = [value if value.name else None for value in pad.inputs[1:]]
    cells, filling, axes = [*extra, None, None, None][:3]
    amount, value, along = (view.constant(known) for known in (cells, filling, axes))
    if amount is None or (filling is not None and (value is None or np.any(value != 0))):
        return None
    if axes is not None and along is None:
        return None
    where = range(rank) if along is None else [int(axis) % rank for axis in along.ravel()]
    added, amounts = [0] * 2 * rank, [int(n) for n in amount.ravel()]
    if len(amounts) != 2 * len(where) or min(amounts, default=0) < 0:
        return None
    for i, axis in enumerate(where):
        added[axis], added[rank + axis] = amounts[i], amounts[i + len(where)]
    return None if any(added[axis] for axis in (0, 1, rank, rank + 1)) else added
