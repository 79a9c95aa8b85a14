"""`onnxplain check`, `show` and `methods`: look without running anything."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer
from rich.console import Console
from rich.table import Column, Table

from ...rewriter.card import is_explanation, read_card
from ...rewriter.compile import Request, recorded
from ...rewriter.coverage import NodeCoverage, coverage
from ...rewriter.errors import OptionError, nearest
from ...rewriter.load import load
from ...rewriter.method import Method
from ...rewriter.passes.shapes import tensor_type
from ...rules.registry import find, methods
from ..perturb.registry import TECHNIQUES
from ..perturb.technique import Technique
from .options import (
    External,
    Head,
    Inputs,
    ModelPath,
    OutputName,
    Overrides,
    Settings,
    Shapes,
    settings_of,
    shapes_of,
)
from .terminal import safe, write_json, write_line


def check_command(
    model: ModelPath,
    method: Annotated[str, typer.Option("--method", "-m", help="See `onnxplain methods`.")] = "saliency",
    output: OutputName = None,
    head: Head = "logits",
    inputs: Inputs = None,
    settings: Settings = None,
    rules: Overrides = None,
    shapes: Shapes = None,
    external_data: External = False,
) -> None:
    """Say which operators of a model a method can explain. Exit code 1 when a node has no rule."""
    request = Request(
        output=output,
        head=head,
        inputs=None if inputs is None else tuple(inputs),
        shapes={name: tuple(shape) for name, shape in (shapes_of(shapes) or {}).items()},
        options=settings_of(settings, rules),
    )
    rows = coverage(load(model, external_data=external_data), find(method), request)
    console = Console(soft_wrap=True)
    console.print(_coverage_table(rows, f"{model.name} under {method}"))
    bad = [row for row in rows if row.reason is not None]
    for row in bad:
        console.print(safe(f"no: {row.op} at {row.name!r}: {row.reason}"))
    if bad:
        raise typer.Exit(1)
    console.print(f"all {len(rows)} nodes between input and target can be explained")


def _coverage_table(rows: list[NodeCoverage], title: str) -> Table:
    failed = any(row.reason is not None for row in rows)
    kinds = Counter(
        (row.op, "no rule" if row.reason else row.rule or ("-" if failed else "no influence")) for row in rows
    )
    table = Table("operator", "nodes", "rule", title=safe(title))
    for (op, rule), count in sorted(kinds.items()):
        table.add_row(safe(op), str(count), safe(rule))
    return table


def show_command(
    file: Annotated[Path, typer.Argument(help="An emitted file, or any ONNX model.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The card as one JSON object.")] = False,
) -> None:
    """Print what a file says about itself: inputs, outputs, and the explanation's card."""
    source = load(file)
    if as_json:
        card = read_card(source.model)
        write_json({key: value for key, value in vars(card).items() if key != "extra"})
        return
    for kind, values in (("input", _inputs(source.model)), ("output", source.model.graph.output)):
        for value in values:
            write_line(f"{kind:>14}  {_signature(value)}")
    write_line(f"{'nodes':>14}  {len(source.model.graph.node)}, {source.size / 1e6:.1f} MB")
    if not is_explanation(source.model):
        write_line(f"{'explanation':>14}  none; make one with `onnxplain compile {file}`")
        return
    card = read_card(source.model)
    for key in (
        "method",
        "options",
        "target",
        "source",
        "lanes",
        "preprocessing",
        "citation",
        "version",
        "proof",
    ):
        write_line(f"{key:>14}  {_short(getattr(card, key))}")
    rules = Counter(card.rules.values())
    write_line(f"{'rules':>14}  {', '.join(f'{name} x{count}' for name, count in rules.most_common())}")
    write_line(f"{'labels':>14}  {len(card.labels) if card.labels else 'none'}")
    for note in card.approximations:
        write_line(f"{'note':>14}  {note}")


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    parameters = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in parameters]


def _signature(value: onnx.ValueInfoProto) -> str:
    known = tensor_type(value)
    dims = ", ".join("?" if dim is None else str(dim) for dim in known.shape or ())
    return f"{value.name} {known.dtype or '?'} [{dims}]"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def methods_command(
    name: Annotated[
        str | None, typer.Argument(help="One method: its options and source.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, by name.")] = False,
) -> None:
    """List the methods, or say all about one: family, cost, options, source."""
    chosen = _named(name)
    if as_json:
        write_json({method.name: _record(method) for method in chosen})
        return
    if name is not None:
        _print_method(chosen[0])
        return
    shown = Table(Column("method", no_wrap=True), "what it is", "cost")
    for method in chosen:
        shown.add_row(*map(safe, (method.name, method.title, _cost(method))))
    Console().print(shown)
    write_line(f"{', '.join(TECHNIQUES)}: `onnxplain perturb`; all others: `onnxplain explain` and `compile`")
    write_line("`onnxplain methods NAME` says what one computes, its options and where it comes from")


def _named(name: str | None) -> list[Method | Technique]:
    """All of them, or the one of a name."""
    every: dict[str, Method | Technique] = {**methods(), **TECHNIQUES}
    if name is None:
        return list(every.values())
    if name not in every:
        raise OptionError(f"no method {name!r}{nearest(name, every)}; `onnxplain methods` lists {len(every)}")
    return [every[name]]


def _cost(method: Method | Technique) -> str:
    return f"forwards: {method.cost}" if isinstance(method, Technique) else method.cost


def _record(method: Method | Technique) -> dict[str, Any]:
    told = {
        "title": method.title,
        "family": "perturbation, for `onnxplain perturb`" if isinstance(method, Technique) else method.family,
        "cost": _cost(method),
        "source": method.source,
        "display": method.display,
    }
    return told | {"options": _options(method)}


def _options(method: Method | Technique) -> dict[str, dict[str, Any]]:
    if isinstance(method, Technique):
        return {
            f.name: {"default": f.default, "choices": (), "help": f.metadata["help"]}
            for f in dataclasses.fields(method.settings)
        }
    return {
        key: {"default": recorded(o.default), "choices": o.choices, "help": o.help}
        for key, o in method.options.items()
    }


def _print_method(method: Method | Technique) -> None:
    write_line(f"{'name':>14}  {method.name}")
    record = _record(method)
    for key in ("title", "family", "cost", "display", "source"):
        write_line(f"{key:>14}  {record[key]}")
    for key, option in record["options"].items():
        choices = f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
        write_line(f"{'--set':>14}  {key}={option['default']}{choices}: {option['help']}")
