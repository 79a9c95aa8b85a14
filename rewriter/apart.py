"""A model with integer inputs as two: the front, which makes floating-point tensors of them, and the rest, which has
these for its inputs. For those who change an input by fractions: interpreters, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from .card import Card
from .errors import ModelError
from .graph import assemble, declared, prepare, with_weights
from .inputs import enter
from .load import Source
from .passes.shapes import tensor_type
from .respell import KEY
from .split import declared_in, subgraph


@dataclass(frozen=True)
class Apart:
    """front: integer inputs -> floating-point tensors. rest: the model that has these for inputs. names: the explained
    inputs of the rest."""

    front: onnx.ModelProto
    rest: Source
    names: tuple[str, ...]


def apart(source: Source, names: Sequence[str] | None) -> Apart | None:
    """A model in two, for the inputs that are explained; None where these are floating-point. Raises what
    `inputs.enter` raises."""
    kinds = [tensor_type(value).dtype for value in source.model.graph.input]
    if all(dtype is None or dtype.kind not in "iu" for dtype in kinds):
        return None
    graph = prepare(source.model)
    whole = with_weights(assemble(graph, [], []), graph)
    _, wrt, front = enter(graph, names)
    if front is None:
        return None
    made = [declared(x) for x in wrt if x.name in front.entries]
    rest = subgraph(whole, whole.graph.output, made)
    return Apart(subgraph(whole, made), replace(source, model=rest), tuple(x.name for x in wrt))


def file_apart(model: onnx.ModelProto, card: Card) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """(front, rest) of an emitted file, whose card names the tensors; None where it names none."""
    places = card.target.get("at")
    if not places:
        return None
    made = {name for node in model.graph.node for name in node.output}
    lost = sorted(set(places) - made)
    if lost:
        raise ModelError(f"the file has no tensor {lost[0]!r}, which its card names; compile it again")
    tensors = declared_in(model, list(places))
    rest = subgraph(model, model.graph.output, tensors)
    rest.metadata_props.extend(
        entry for entry in model.metadata_props if entry.key != KEY
    )  # of the whole file
    return subgraph(model, tensors), rest


__all__ = ["Apart", "apart", "file_apart"]
