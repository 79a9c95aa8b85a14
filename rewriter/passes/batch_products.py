"""Where the samples are behind products, picks and recurrences; see `batch_rules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..rows import Along, Mixed, Place
from .batch_rules import grown, only
from .batch_trial import Trial, mixed, on

if TYPE_CHECKING:
    from ..graph import Node

SUMS = "multiplies and sums along axis {} of its {} factor"


def agreed(node: Node, found: Sequence[Place]) -> Place:
    """The one place that all of them name."""
    known = set(found) - {None}
    lost = next((place for place in known if isinstance(place, Mixed)), None)
    if lost is not None:
        return lost
    return known.pop() if len(known) == 1 else mixed(node, "multiplies every sample with every other one")


@on("MatMul", "MatMulInteger")
def matmul(trial: Trial, node: Node) -> Place:
    """y = A B: the rows of A and the columns of B stay, batch axes are broadcast from behind."""
    a, b = node.inputs[:2]
    first, second = trial.rank(a), trial.rank(b)
    if first is None or second is None:
        return grown(trial, node)
    rank = max(first, second, 2)
    found: list[Place] = []
    for i, (x, mine) in enumerate(((a, first), (b, second))):
        place = trial.place(x)
        if not isinstance(place, Along):
            continue
        summed = mine - 1 if i == 0 or mine == 1 else mine - 2
        if place.axis == summed:
            found.append(mixed(node, SUMS.format(place.axis, "first" if i == 0 else "second")))
            continue
        axis = place.axis + rank - mine
        if i == 1 and first == 1:  # the row of A is no axis of y
            axis -= axis == rank - 1
        found.append(place.at(axis))
    return agreed(node, found)


@on("Gemm")
def gemm(trial: Trial, node: Node) -> Place:
    found: list[Place] = []
    for i, key in enumerate(("transA", "transB")):
        place, turned = trial.place(node.inputs[i]), int(node.attrs.get(key, 0))
        if isinstance(place, Along):
            summed = 1 - turned if i == 0 else turned
            lost = mixed(node, SUMS.format(place.axis, "first" if i == 0 else "second"))
            found.append(lost if place.axis == summed else place.at(i))
    if len(node.inputs) > 2 and isinstance(place := trial.place(node.inputs[2]), Along):
        found.append(place.at(place.axis + 2 - (trial.rank(node.inputs[2]) or 2)))
    return agreed(node, found)


@on("Einsum")
def einsum(trial: Trial, node: Node) -> Place:
    equation = str(node.attrs["equation"]).replace(" ", "")
    left, arrow, result = equation.partition("->")
    if "." in equation:
        return grown(trial, node)
    if not arrow:
        result = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    found: list[Place] = []
    for x, term in zip(node.inputs, left.split(","), strict=True):
        place = trial.place(x)
        if isinstance(place, Along):
            letter = term[place.axis]
            lost = mixed(node, f"sums along {letter!r}")
            found.append(place.at(result.index(letter)) if letter in result else lost)
    return agreed(node, found)


@on("LSTM", "GRU", "RNN")
def recurrent(trial: Trial, node: Node) -> Sequence[Place]:
    """X (steps, N, features), Y (steps, directions, N, hidden), states (directions, N, hidden); layout=1: N leads."""
    at, count = (0, 0) if int(node.attrs.get("layout", 0)) else (1, 2), len(node.outputs)
    places = {x: trial.place(value) for x, value in zip("XWRBsHCP", node.inputs, strict=False)}
    weights = any(places.get(key) for key in "WRBP")
    states = {places.get(key) for key in "HC"} - {None, Along(at[0])}
    if weights or states or places["X"] not in (None, Along(at[0])):
        return [mixed(node, f"takes samples along axis {at[0]}", window=True)] * count
    return [Along(at[1] if i == 0 else at[0]) for i in range(count)]


@on("Gather")
def gather(trial: Trial, node: Node) -> Place:
    x, index = node.inputs
    data, picked, rank, many = trial.place(x), trial.place(index), trial.rank(x), trial.rank(index)
    if rank is None or many is None:
        return grown(trial, node)
    axis = int(node.attrs.get("axis", 0)) % rank
    if isinstance(data, Along) and picked is None:
        if data.axis == axis:
            return mixed(node, f"picks along axis {axis}")
        return data if data.axis < axis else data.at(data.axis - 1 + many)
    if isinstance(picked, Along) and data is None:
        return picked.at(axis + picked.axis)
    return mixed(node, "picks from all samples")


@on("GatherElements", "ScatterElements")
def elements(trial: Trial, node: Node) -> Place:
    found = {trial.place(x) for x in node.inputs} - {None}
    rank = trial.rank(node.inputs[0])
    if rank is None:
        return grown(trial, node)
    own = int(node.attrs.get("axis", 0)) % rank
    place = found.pop() if len(found) == 1 else None
    if isinstance(place, Along) and place.axis != own:
        return place
    return mixed(node, f"picks along axis {own} from all samples")


@on("GatherND")
def gather_nd(trial: Trial, node: Node) -> Place:
    x, index = node.inputs
    data, picked, many = trial.place(x), trial.place(index), trial.rank(index)
    sizes, batch = trial.sizes(index), int(node.attrs.get("batch_dims", 0))
    if many is None or sizes is None:
        return grown(trial, node)
    deep = sizes[0][-1]
    if isinstance(data, Along) and picked in (None, data) and data.axis < batch:
        return data
    if isinstance(data, Along) and picked is None and data.axis >= batch + deep:
        return data.at(many - 1 + data.axis - batch - deep)
    if isinstance(picked, Along) and data is None and picked.axis < many - 1:
        return picked
    return mixed(node, "picks from all samples")


@on("ScatterND")
def scatter_nd(trial: Trial, node: Node) -> Place:
    """Written over places that depend on no sample, each sample's own."""
    data, index, _ = (trial.place(x) for x in node.inputs)
    return (
        data if isinstance(data, Along) and index is None else mixed(node, "writes at indices of the samples")
    )


@on("OneHot")
def one_hot(trial: Trial, node: Node) -> Place:
    place, rank = only(trial, node), trial.rank(node.inputs[0])
    if isinstance(place, Mixed) or rank is None:
        return place if isinstance(place, Mixed) else grown(trial, node)
    own = int(node.attrs.get("axis", -1)) % (rank + 1)
    return place.at(place.axis + (own <= place.axis))


@on("Compress")
def compress(trial: Trial, node: Node) -> Place:
    place, rank = only(trial, node), trial.rank(node.inputs[0])
    if isinstance(place, Mixed) or "axis" not in node.attrs or rank is None:
        return place if isinstance(place, Mixed) else mixed(node, "picks from all samples")
    own = int(node.attrs["axis"]) % rank
    return place if place.axis != own else mixed(node, f"picks along axis {own}")


@on("NonMaxSuppression", "NonZero", "Unique", "RoiAlign", "MaxRoiPool", "ReverseSequence")
def chosen(trial: Trial, node: Node) -> Place:
    return mixed(node, "chooses from all samples as their values have it")


__all__ = ["agreed", "matmul"]
