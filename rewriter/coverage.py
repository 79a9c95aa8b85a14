"""Which nodes of a model a method can explain, without compiling it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .compile import Request, open_stage
from .errors import UnsupportedError
from .load import Source
from .method import Method
from .tape import linearize, touched


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
    method, options = method.concrete(request.options)
    stage, _ = open_stage(source, method, replace(request, options=options))
    graph, head = stage.graph, stage.head
    wrt = (stage.layer,) if method.starts_at_layer else stage.wrt
    reasons: dict[str, str] = {}
    rules: dict[str, str] = {}
    try:
        rules = linearize(graph, wrt, head, stage.rules, stage.g).rules()
    except UnsupportedError as error:
        reasons = {site.name: site.reason for site in error.sites}
    found = touched(graph, wrt, head)
    return [
        NodeCoverage(str(node.name), str(node.op), rules.get(node.name), reasons.get(node.name))
        for node in found
    ]
