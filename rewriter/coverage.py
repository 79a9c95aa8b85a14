"""Which nodes of a model a method can explain, without compiling it."""

from __future__ import annotations

from dataclasses import dataclass

from .compile import Request, explained_inputs
from .emit import Emit
from .errors import UnsupportedError
from .graph import prepare
from .load import Source
from .method import Method
from .tape import linearize, touched
from .target import find_head, find_output


@dataclass(frozen=True)
class NodeCoverage:
    """rule: name of the rule in use, or None where the node carries no influence. reason: why it cannot be
    explained, or None."""

    name: str
    op: str
    rule: str | None
    reason: str | None


def coverage(source: Source, method: Method, request: Request) -> list[NodeCoverage]:
    """Every node between the explained inputs and the target, in order.

    Raises ModelError, TargetError and OptionError as `compile_source`, but never UnsupportedError.
    """
    graph = prepare(source.model, request.shapes)
    g = Emit(graph)
    wrt = explained_inputs(graph, request.inputs)
    head, _ = find_head(graph, find_output(graph, request.output), request.head)
    reasons: dict[str, str] = {}
    rules: dict[str, str] = {}
    try:
        rules = linearize(graph, wrt, head, method.rules(method.settle(request.options)), g).rules()
    except UnsupportedError as error:
        reasons = {site.name: site.reason for site in error.sites}
    found = touched(graph, wrt, head)
    return [
        NodeCoverage(str(node.name), str(node.op), rules.get(node.name), reasons.get(node.name))
        for node in found
    ]
