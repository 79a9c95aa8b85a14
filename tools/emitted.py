"""What the compiler emits, as fingerprints: of every method, on the golden nets, the shipped models and two topologies.

usage: python tools/emitted.py OUT.json [--against BEFORE.json] [--method GLOB] [--net GLOB]

A change that should change nothing is made between two runs. Every file has three fingerprints: of its nodes as they
are connected (names of tensors and nodes left out), of its constants, and of its card. What differs is listed with the
part that differs; exit status 1 when anything does.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.progress import track

import onnxplain
from onnxplain.models import names, path

GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden"
LIGHT = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
TOPOLOGIES = ("squeezenet", "shufflenet")
OPTIONS: dict[str, dict[str, Any]] = {
    "lrp.z-box": {"low": -3.0, "high": 3.0},
    "lrp.epsilon-gamma-box": {"low": -3.0, "high": 3.0},
    "integrated-gradients": {"steps": 4},
    "smoothgrad": {"samples": 4},
    "pattern-net": {"estimator": "weights"},
    "pattern-attribution": {"estimator": "weights"},
}
PREFIX = "onnxplain."


def nets() -> Iterator[tuple[str, Path]]:
    for file in sorted(GOLDEN.glob("*.onnx")):
        yield f"golden/{file.stem}", file
    for name in names():
        yield f"shipped/{name}", path(name)
    for name in TOPOLOGIES:
        yield f"topologies/{name}", LIGHT / f"light_{name}.onnx"


def digest(parts: Iterable[str | bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
        found.update(b"\0")
    return found.hexdigest()[:16]


def structure(graph: onnx.GraphProto, known: dict[str, str]) -> Iterator[str]:
    """The nodes, every tensor called by the place where it was made."""
    for i, x in enumerate(graph.input):
        known[x.name] = f"in{i}"
        yield f"{x.name} {onnx.helper.printable_value_info(x)}"
    for tensor in graph.initializer:
        known[tensor.name] = f"constant {list(tensor.dims)} {constant(tensor)}"
    for i, node in enumerate(graph.node):
        attributes = []
        for a in sorted(node.attribute, key=lambda a: a.name):
            if a.HasField("g"):
                attributes.append(f"{a.name}={digest(structure(a.g, dict(known)))}")
            elif a.HasField("t"):
                attributes.append(f"{a.name}={constant(a.t)}")
            else:
                attributes.append(f"{a.name}={onnx.helper.get_attribute_value(a)!r}")
        reads = [known.get(x, f"outer {x}") if x else "" for x in node.input]
        for k, y in enumerate(node.output):
            known[y] = f"{i}.{k}"
        yield f"{node.domain}:{node.op_type} {attributes} {reads}"
    yield from (f"{y.name} {known.get(y.name)}" for y in graph.output)


def constant(tensor: onnx.TensorProto) -> str:
    values = np.ascontiguousarray(numpy_helper.to_array(tensor))
    return digest([values.dtype.str, repr(values.shape), values.tobytes()])


def fingerprint(model: onnx.ModelProto) -> dict[str, str]:
    card = {e.key: e.value for e in model.metadata_props if e.key.startswith(PREFIX)}
    return {
        "graph": digest(structure(model.graph, {})),
        "bytes": digest([model.SerializeToString(deterministic=True)]),
        **{key: digest([value]) for key, value in sorted(card.items())},
    }


def outcome(file: Path, method: str) -> dict[str, str]:
    try:
        return fingerprint(onnxplain.compile(str(file), method, **OPTIONS.get(method, {})).model)
    except onnxplain.ExplainError as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("out", type=Path)
    asked.add_argument("--against", type=Path)
    asked.add_argument("--method", default="*")
    asked.add_argument("--net", default="*")
    given = asked.parse_args()
    pairs = [
        (net, file, method)
        for net, file in nets()
        for method in onnxplain.methods()
        if fnmatch.fnmatch(method, given.method) and fnmatch.fnmatch(net, given.net)
    ]
    found = {f"{net} {method}": outcome(file, method) for net, file, method in track(pairs, "compiling")}
    given.out.write_text(json.dumps(found, indent=1, sort_keys=True))
    if given.against is None:
        return 0
    before = json.loads(given.against.read_text())
    changed = {key: parts(before.get(key, {}), found[key]) for key in found if before.get(key) != found[key]}
    for key, what in changed.items():
        print(f"{key}: {', '.join(what)}")
    print(f"{len(found) - len(changed)} of {len(found)} files are equal")
    return bool(changed)


def parts(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


if __name__ == "__main__":
    sys.exit(main())
