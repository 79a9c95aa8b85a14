"""Signs, symmetries and linearity of maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...rewriter.graph import prepare
from ...rewriter.layers import find_layer
from ...rewriter.target import find_head, find_output
from ..session import run
from .general import SAME, distance
from .outcome import NotApplicable, Outcome, check, within
from .subject import Floats, Subject
from .surgery import forward_part, loop_of


def _flat(maps: dict[str, Floats]) -> Floats:
    return np.concatenate([value.ravel() for value in maps.values()])


def _lowest(subject: Subject) -> float:
    """The most negative element, relative to the largest."""
    worst = 0.0
    for shot in subject.shots():
        values = _flat(subject.attributions(shot.result))
        worst = max(worst, -float(values.min()) / (float(np.abs(values).max()) or 1.0))
    return worst


@check("not negative")
def variance_sign(subject: Subject) -> Outcome:
    """A mean of squares and a variance are not negative."""
    return within(_lowest(subject), 0.0, "relative to the largest element")


@check("the same noise, the same map")
def repeatable(subject: Subject) -> Outcome:
    """The same noise gives the same map, to the bit."""
    worst = 0.0
    for case in subject.probes[:1]:
        first, again = (_flat(subject.attributions(subject.shoot(case).result)) for _ in range(2))
        worst = max(worst, distance(again, first))
    return within(worst, 0.0, "two runs")


@check("noisy copies in any order")
def any_order(subject: Subject) -> Outcome:
    """The order of the noisy copies does not matter."""
    turned: dict[str, Any] = {
        name: value[::-1] for name, value in subject.more.items() if name.startswith("noise")
    }
    worst = 0.0
    for case in subject.probes[:1]:
        first = _flat(subject.attributions(subject.shoot(case).result))
        worst = max(worst, distance(_flat(subject.attributions(subject.shoot(case, **turned).result)), first))
    return within(worst, subject.bound(SAME), f"{len(next(iter(turned.values())))} copies")


@check("not negative")
def cam_sign(subject: Subject) -> Outcome:
    """Grad-CAM keeps positive evidence only."""
    if not subject.options.get("relu", True) or subject.options.get("variant", "paper") != "paper":
        raise NotApplicable("the map is signed with relu=False, and as a product with the gradient")
    return within(_lowest(subject), 0.0, "relative to the largest element")


@check("the same in every channel")
def one_map(subject: Subject) -> Outcome:
    """An activation map has one value a pixel: it is the same in every channel."""
    if subject.options.get("variant", "paper") != "paper":
        raise NotApplicable("a product with the gradient differs from channel to channel")
    about = subject.card.preprocessing or {}
    worst = 0.0
    for shot in subject.shots():
        for value in subject.attributions(shot.result).values():
            axis = value.ndim - 1 if about.get("layout") == "NHWC" else 1
            worst = max(worst, distance(value, np.broadcast_to(value.take([0], axis), value.shape)))
    return within(worst, 0.0, "relative to the largest element")


@check("not negative")
def fem_sign(subject: Subject) -> Outcome:
    """FEM: not negative where its layer is not: weights and activations are its own."""
    if loop_of(subject.model) is not None:
        raise NotApplicable("the layer is inside the loop")
    low = _lowest_of_layer(subject)
    if low < 0:
        raise NotApplicable(f"its layer goes down to {low:.3g}")
    return within(_lowest(subject), 0.0, "its layer is not negative")


@check("the same for every class")
def class_free(subject: Subject) -> Outcome:
    """FEM does not look at the class."""
    if subject.aim != "input":
        raise NotApplicable("the class is not an input of this file")
    size = int(subject.card.target.get("size") or 1)
    worst = 0.0
    for case in subject.probes:
        first, other = (_flat(subject.attributions(subject.shoot(case, c).result)) for c in (0, size - 1))
        worst = max(worst, distance(other, first))
    return within(worst, 0.0, f"classes 0 and {size - 1}")


@check("A(2 c) = 2 A(c)")
def homogeneous_start(subject: Subject) -> Outcome:
    """Gates on the cotangent keep its scale: A(2 c) = 2 A(c). A power of 2, so that nothing is rounded."""
    first = _started(subject, 1.0)
    return within(distance(_started(subject, 2.0), 2 * first), subject.bound(SAME), "random cotangents")


@check("linear in the cotangent")
def linear_start(subject: Subject) -> Outcome:
    """At a fixed input the map is linear in the cotangent: A(c + d) = A(c) + A(d), and A(-c) = -A(c)."""
    first, second = _started(subject, 1.0), _started(subject, 0.0, 1.0)
    both, back = _started(subject, 1.0, 1.0), _started(subject, -1.0)
    size = float(np.abs(first).max() + np.abs(second).max()) or 1.0
    off = max(float(np.abs(both - first - second).max()), float(np.abs(back + first).max()))
    return within(off / size, subject.bound(SAME), "random cotangents")


def _started(subject: Subject, factor: float, other: float = 0.0) -> Floats:
    """The map of factor c + other d, of two random cotangents."""
    if subject.aim != "cotangent":
        raise NotApplicable("the file takes no cotangent; compile it with --target cotangent")
    case = subject.probes[0]
    c = subject.cotangent(case)
    d: Any = np.random.default_rng(subject.seed + 2).standard_normal(c.shape)
    mixed = (factor * c + other * d).astype(c.dtype)
    return _flat(subject.attributions(subject.shoot(case, cotangent=mixed).result))


def _lowest_of_layer(subject: Subject) -> float:
    """The smallest element of the tensor that the map is made of, found by the code that the compiler uses."""
    graph = prepare(forward_part(subject.model, subject.own))
    head, _ = find_head(graph, find_output(graph, subject.card.target.get("output")), subject.head)
    wrt = [graph.values[name] for name in subject.explained]
    layer = str(find_layer(graph, wrt, head, subject.options.get("layer")).name)
    session = subject.session(forward_part(subject.model, [layer]))
    wanted = {node.name for node in session.get_inputs()}
    found = [
        run(session, {name: value for name, value in case.feeds.items() if name in wanted})[layer]
        for case in subject.probes
    ]
    return min(float(np.asarray(values, np.float64).min()) for values in found)
