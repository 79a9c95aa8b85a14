"""`onnxplain export web`: explanations as a folder of static files, which any file server shows to a browser.

The folder holds the page (HTML, CSS and ES modules as they are written, nothing is built), the WebAssembly files of
onnxruntime-web with their licences, the graphs, the weights of every model once, and `manifest.json`, which the page
reads first. Nothing in it refers to another server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import PIL

from ... import models
from ...rewriter.errors import OptionError
from ...rewriter.passes.shapes import tensor_type
from ...rewriter.split import split, subgraph
from ...rules.registry import methods as known_methods
from ..atomic import atomic_folder
from ..compiling import package_version
from ..opening import serialize
from .web_files import Weights
from .web_parts import PROBES, Part, open_parts, paths_of, runs_on_webgpu
from .web_runtime import PAGE, Runtime, find_runtime

SCHEMA = 1
"""Of the manifest; the page refuses any other."""
MANIFEST = "manifest.json"
MODULES = ("*.html", "*.css", "*.js", "*.svg")
"""The page's files."""
_LICENCES = Path(models.__file__).with_name("LICENSES.md")
"""Of the models and photos that ship with onnxplain."""


@dataclass(frozen=True)
class Exported:
    """folder: what was written. bytes: by the file's path in it. titles: "model: method" of every explanation."""

    folder: Path
    bytes: Mapping[str, int]
    titles: tuple[str, ...]


def export_web(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    methods: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    runtime: str | os.PathLike[str] | None = None,
    webgpu: bool = False,
    samples: bool = False,
    **reading: Any,
) -> Exported:
    """Write the folder `out`, whole or not at all; an earlier export there is replaced.

    files: emitted explanations (respelled for the web), and models, compiled here with every one of `methods` and
    `options` (each method takes those that are its own); without methods saliency for a model that gives scores, rows
    and columns of LinearScope for one that gives pictures. runtime: the `dist` folder of onnxruntime-web, else see
    `web_runtime.find_runtime`. webgpu: its WebGPU files too (27 MB), used only where the page's own comparison with
    WebAssembly holds. samples: the photos that ship with onnxplain. reading: `preprocessing`, `labels`,
    `external_data` as in `onnxplain.compile`.

    Raises OptionError for a folder that holds something else, without onnxruntime-web or its licence, and what
    `open_parts` raises.
    """
    place = Path(out)
    _vet_place(place)
    engine = find_runtime(runtime, webgpu)
    parts = open_parts(paths_of(files), methods, options, **reading)
    try:
        with atomic_folder(place) as work:
            _write(work, parts, engine, webgpu, samples)
    except OSError as error:
        raise OptionError(
            f"cannot write {str(place)!r}: {error.strerror or error}; choose another folder"
        ) from error
    sizes = {
        file.relative_to(place).as_posix(): file.stat().st_size
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }
    return Exported(place, sizes, tuple(f"{part.title}: {part.card.method}" for part in parts))


def _vet_place(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise OptionError(f"cannot write {str(place)!r}: it is a file; name a folder")
    if place.is_dir() and any(place.iterdir()) and not _is_export(place):
        raise OptionError(f"{str(place)!r} holds other files; name a new folder, or one of an earlier export")


def _is_export(place: Path) -> bool:
    try:
        return "onnxplain" in json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _write(folder: Path, parts: Sequence[Part], engine: Runtime, webgpu: bool, samples: bool) -> None:
    for pattern in MODULES:
        for file in PAGE.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    engine.copy(folder / "vendor", webgpu)
    (folder / "models").mkdir()
    manifest = {
        "onnxplain": package_version(),
        "schema": SCHEMA,
        "runtime": {"name": "onnxruntime-web", "version": engine.version, "webgpu": webgpu},
        "pillow": PIL.__version__,  # the page scales pictures as this version does, to the bit
        "models": [_model(folder, [p for p in parts if p.key == key]) for key in _keys(parts)],
        "photos": _photos(folder) if samples else [],
    }
    if any(part.shipped for part in parts):
        shutil.copyfile(_LICENCES, folder / "models" / _LICENCES.name)
    text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _keys(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(part.key for part in parts))


def _model(folder: Path, parts: Sequence[Part]) -> dict[str, object]:
    """Everything of one source model: its forward pass, its explanations, and their weights in one file."""
    first = parts[0]
    stem = f"{_safe(first.title)}-{first.key}"
    weights = Weights(f"{stem}.weights")
    own = [value for value in first.model.graph.output if value.name not in first.card.outputs]
    forward = subgraph(first.model, own)
    record: dict[str, object] = {
        "id": first.key,
        "name": first.title,
        "input": _tensor(first.picture),
        "output": _output(first),
        "preprocessing": first.about.preprocessing.to_record(),
        "guessed": first.about.guessed,
        "labels": next((list(part.about.labels) for part in parts if part.about.labels), None),
        "source": {key: first.card.source.get(key) for key in ("sha256", "opset", "producer")},
        "forward": _save(folder, f"{stem}.forward", weights.detach(forward)),
        "methods": [
            _method(part, _graphs(folder, f"{stem}.{i}-{_safe(part.card.method)}", part, weights))
            for i, part in enumerate(parts)
        ],
    }
    (folder / "models" / weights.name).write_bytes(weights.data)
    return record | {"weights": {"file": f"models/{weights.name}", "bytes": len(weights.data)}}


def _method(part: Part, file: Mapping[str, object]) -> dict[str, object]:
    known = known_methods().get(part.card.method)
    card = part.card
    return {
        "method": card.method,
        "title": card.method if known is None else known.title,
        "name": part.name,
        "kind": part.kind,
        "display": "maxabs" if known is None else known.display,
        "options": dict(card.options),
        "citation": card.citation,
        "approximations": list(card.approximations),
        "head": card.target.get("head"),
        "target": card.target.get("target"),
        "noise": int(card.options.get("samples", 50)) if "noise" in card.inputs else None,
        "webgpu": runs_on_webgpu(part.model),
        **file,
    }


def _graphs(folder: Path, name: str, part: Part, weights: Weights) -> dict[str, object]:
    """The file of an explanation; of one that is probed again and again for a picture the part that every probe runs,
    and `state`, which is run once for the picture."""
    late = {probe for probe, kind in PROBES.items() if kind == part.kind}
    if not late:
        return _save(folder, name, weights.detach(part.model))
    before, after = (weights.detach(model) for model in split(part.model, late))
    return {**_save(folder, name, after), "state": _save(folder, f"{name}.state", before)}


def _save(folder: Path, name: str, model: onnx.ModelProto) -> dict[str, object]:
    data = serialize(model)
    (folder / "models" / f"{name}.onnx").write_bytes(data)
    return {"file": f"models/{name}.onnx", "bytes": len(data)}


def _tensor(value: onnx.ValueInfoProto) -> dict[str, object]:
    return {"name": value.name, "shape": list(tensor_type(value).shape or ())}


def _output(part: Part) -> dict[str, object]:
    aim = part.card.target
    value = next(
        (v for v in part.model.graph.output if v.name == aim.get("output")), part.model.graph.output[0]
    )
    low, high = part.range or (None, None)
    scale = None if part.range is None else {"low": low, "high": high}
    return {**_tensor(value), "squash": aim.get("squash"), "range": scale}


def _photos(folder: Path) -> list[dict[str, str]]:
    (folder / "photos").mkdir()
    found = []
    base = models.photo("cat_chelsea").parent
    for file in sorted(base.glob("*.jpg")):
        shutil.copyfile(file, folder / "photos" / file.name)
        found.append({"file": f"photos/{file.name}", "name": file.stem.replace("_", " ")})
    shutil.copyfile(_LICENCES, folder / "photos" / _LICENCES.name)
    return found


def _safe(text: str) -> str:
    """For file names in addresses."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.").lower() or "model"


__all__ = ["Exported", "export_web"]
