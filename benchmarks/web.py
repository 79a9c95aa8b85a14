"""What explanations cost in WebAssembly, as multiples of the model's own forward pass there.

python -m benchmarks.web [--rounds 25] [--threads 2] [--out FILE.md]

The files of `onnxplain export web`, run by node with the onnxruntime-web of web/ (`npm ci` there) and the options of
the page's worker, without a browser that draws beside them. Of LinearScope the time is that of one position of the
pointer; what is run once for a picture is not in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.table import load, machine, spread, table
from benchmarks.timing import PAUSE, Spread
from onnxplain import models
from onnxplain.runtime.export.web import export_web
from onnxplain.runtime.export.web_runtime import locked_version
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.preprocess import from_record

ROOT = Path(__file__).resolve().parents[1]
FORWARD = "forward"
SIDE = 48
"""Of the part that a model of any size is given, as the page does."""
CASES: Mapping[str, Sequence[str]] = {
    "efficientnet_lite0": (
        "grad-cam",
        "saliency",
        "guided-backprop",
        "lrp.epsilon",
        "lrp.epsilon-plus",
        "deeplift.rescale",
        "linearscope.rows",
        "linearscope.columns",
    ),
    "esrgan_slim_x4": ("saliency", "linearscope.rows", "linearscope.columns"),
}
PACKAGES = ("onnxplain", "onnx")


@dataclass(frozen=True)
class Costs:
    title: str
    forward: Spread
    ratios: Mapping[str, Spread]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "web-cpu.md")
    args = parser.parse_args(arguments)
    if shutil.which("node") is None or not (ROOT / "web" / "node_modules").is_dir():
        parser.error("needs node, and `npm ci` in web/")
    busy = load()
    measured = [measure(name, methods, args.threads, args.rounds) for name, methods in CASES.items()]
    page = report(measured, args, busy)
    args.out.write_text(page, encoding="utf-8")
    print(page)


def measure(name: str, methods: Sequence[str], threads: int, rounds: int) -> Costs:
    with TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        export_web([models.path(name)], site, methods=methods)
        (told,) = json.loads((site / "manifest.json").read_text(encoding="utf-8"))["models"]
        x = picture(told)
        runs = {FORWARD: {"file": told["forward"]["file"], "feeds": {told["input"]["name"]: x}}}
        runs |= {entry["method"]: probe(entry, told, x) for entry in told["methods"]}
        spec = {
            "threads": threads,
            "rounds": rounds,
            "pause": PAUSE * 1e3,
            "weights": told["weights"]["file"],
        }
        asked, answered = Path(temporary) / "runs.json", Path(temporary) / "times.json"
        asked.write_text(json.dumps({**spec, "runs": runs}), encoding="utf-8")
        script, package = Path(__file__).with_suffix(".mjs"), ROOT / "web" / "package.json"
        subprocess.run(["node", *map(str, (script, package, site, asked, answered))], check=True)
        times = {key: np.asarray(values) / 1e3 for key, values in json.loads(answered.read_text()).items()}
    forward = times.pop(FORWARD)
    ratios = {key: Spread.of(values / forward) for key, values in times.items()}
    return Costs(str(told["name"]), Spread.of(forward), ratios)


def picture(told: Mapping[str, Any]) -> dict[str, Any]:
    image = read_image(models.photo("cat_chelsea"))
    preprocessing = from_record(told["preprocessing"])
    if preprocessing.size is None:
        image = image.crop((200, 120, 200 + SIDE, 120 + SIDE))
    return feed(prepare(image, preprocessing)[0].astype(np.float32))


def probe(entry: Mapping[str, Any], told: Mapping[str, Any], x: dict[str, Any]) -> dict[str, Any]:
    """The feeds of one run. A cotangent or tangent has a one in the middle."""
    own = {told["input"]["name"]: x}
    if "state" not in entry:
        target = {"target": {"type": "int64", "dims": [1, 1], "values": [-1]}}
        return {"file": entry["file"], "feeds": own | target}
    shape = x["dims"]
    if entry["kind"] == "rows":
        out = told["output"]["shape"]
        pictorial = len(out) == 4
        shape = [1, 3, 4 * SIDE, 4 * SIDE] if pictorial else [1, *out[1:]]
    one = np.zeros(shape, np.float32)
    one.flat[one.size // 2] = 1
    name = {"rows": "cotangent", "columns": "tangent"}[entry["kind"]]
    state = {"file": entry["state"]["file"], "feeds": own}
    return {"file": entry["file"], "feeds": {name: feed(one)}, "state": state}


def feed(array: np.ndarray) -> dict[str, Any]:
    return {"type": "float32", "dims": list(array.shape), "values": array.ravel().tolist()}


def report(measured: Sequence[Costs], args: argparse.Namespace, busy: float | None) -> str:
    names = list(dict.fromkeys(name for costs in measured for name in costs.ratios))
    rows = [["forward (= 1)", *(f"{costs.forward.median * 1e3:.0f} ms" for costs in measured)]]
    rows += [[name, *(spread(costs.ratios.get(name)) for costs in measured)] for name in names]
    return f"""# What explanations cost in WebAssembly

{machine(args.threads, PACKAGES, busy)}
onnxruntime-web {locked_version()} in node, {args.rounds} rounds, the files of `onnxplain export web`; time over that of
the model's own forward pass in the same round, median (tenth to ninetieth percentile). `linearscope`: one position of
the pointer, for a picture whose masks are known. ESRGAN: a part of {SIDE} x {SIDE} pixels.

{table(["", *(costs.title for costs in measured)], rows)}"""


if __name__ == "__main__":
    main()
