"""Does any method give a map that is zero everywhere, or not finite, and say nothing? `python -m benchmarks.silent`

Every method is compiled for every model, the shipped ones and the small nets of the tests, and run on an input of
zeros, a constant, the ends of the range in a chequerboard, and noise. What is found in the arrays here is compared
with the warnings that came: there must be one for each result. Exit status 1 where one is missing.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.table import table
from onnxplain import ExplainError, ExplainWarning, compile, methods, models
from onnxplain.runtime.explainer import Result
from onnxplain.runtime.verify.verifying import subject_of

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden"
SHIPPED = (
    "mnist_lenet",
    "tiny_yolov2_face",
    "esrgan_slim_x4",
    "style07_instancenorm",
    "selfie_segmentation",
    "efficientnet_lite0",
)
SIZES: Mapping[str, tuple[int, ...]] = {
    "esrgan_slim_x4": (1, 3, 16, 16),
    "style07_instancenorm": (1, 3, 32, 32),
}
"""Of models that take any."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "integrated-gradients": {"steps": 4},
    "smoothgrad": {"samples": 2},
    "smoothgrad-squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "lrp.z-box": {"low": 0.0, "high": 1.0},
    "lrp.epsilon-gamma-box": {"low": 0.0, "high": 1.0},
    "pattern-net": {"estimator": "weights"},
    "pattern-attribution": {"estimator": "weights"},
    "occlusion.graph": {},
    "linearscope.svd": {"k": 1, "steps": 2},
}
MEANT = ("residual", "value", "contributions")
"""Of which a zero says something."""
WHOLE = ("attribution", "heatmap")


@dataclass(frozen=True)
class Seen:
    """One result: "fine", "told" or "silent", or why there is none ("refused", "not run")."""

    model: str
    method: str
    case: str
    verdict: str
    words: str = ""


def says_nothing(result: Result) -> bool:
    """Whether some map is zero everywhere or some result not finite: looked for here once more, in another way."""
    for name, value in {**result.attributions, **result.heatmaps, **result.results}.items():
        if value.dtype.kind != "f":
            continue
        kind = name.split("/")[0]
        maps = value if name in result.attributions or name in result.heatmaps else value[None]
        if not all(np.isfinite(one).all() for one in maps):
            return True
        if kind not in MEANT and any(np.abs(one).max(initial=0.0) == 0 for one in maps):
            return True
    return False


def look(path: Path, name: str, options: Mapping[str, Any], limit: int) -> Iterator[Seen]:
    """One method on one model, on every input."""
    sizes = SIZES.get(path.stem)
    try:
        explainer = compile(path, name, threads=1, **options)
        subject = subject_of(explainer, shapes={} if sizes is None else {_input(explainer.model): sizes})
    except ExplainError as error:
        yield Seen(path.stem, name, "", "refused", str(error))
        return
    for case in (*subject.corners, *subject.probes[:1])[:limit]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = subject.call(case.feeds, **subject.beside(case))
            except ExplainError as error:
                yield Seen(path.stem, name, case.name, "not run", str(error))
                continue
        told = [str(one.message) for one in caught if one.category is ExplainWarning]
        nothing = says_nothing(result)
        verdict = "fine" if not nothing else "told" if told else "silent"
        yield Seen(path.stem, name, case.name, verdict, "; ".join(told))


def _input(model: Any) -> str:
    return str(model.graph.input[0].name)


def sweep(
    paths: Sequence[Path], names: Sequence[str], limit: int = 4, tell: Callable[[Seen], None] | None = None
) -> list[Seen]:
    found: list[Seen] = []
    jobs = [(path, name) for path in paths for name in names]
    for path, name in track(jobs, "models x methods", disable=not sys.stderr.isatty()):
        for seen in look(path, name, OPTIONS.get(name, {}), limit):
            found.append(seen)
            if tell is not None:
                tell(seen)
    return found


def report(found: Sequence[Seen]) -> str:
    """A line a model: how many results there are of each kind."""
    kinds = ("fine", "told", "silent", "refused", "not run")
    names = list(dict.fromkeys(seen.model for seen in found))
    counts = {name: Counter(seen.verdict for seen in found if seen.model == name) for name in names}
    rows = [[name, *(str(counts[name][kind]) for kind in kinds)] for name in names]
    total = Counter(seen.verdict for seen in found)
    return table(["model", *kinds], [*rows, ["all", *(str(total[kind]) for kind in kinds)]])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "models", nargs="*", help="shipped names, nets of the tests, or files; all by default"
    )
    parser.add_argument("-m", "--methods", help="separated by commas; all by default")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every result that is not fine")
    asked = parser.parse_args()
    known = {path.stem: path for path in sorted(GOLDEN.glob("*.onnx"))}
    known |= {name: models.path(name) for name in SHIPPED}
    paths = [known.get(name, Path(name)) for name in asked.models or known]
    names = asked.methods.split(",") if asked.methods else list(methods())

    def tell(seen: Seen) -> None:
        if asked.verbose and seen.verdict != "fine":
            print(f"{seen.verdict:8} {seen.model} {seen.method} {seen.case}: {seen.words[:160]}", flush=True)

    found = sweep(paths, names, tell=tell)
    print(report(found))
    silent = [seen for seen in found if seen.verdict == "silent"]
    for seen in silent:
        print(f"silent: {seen.method} of {seen.model} on {seen.case}")
    return int(bool(silent))


if __name__ == "__main__":
    sys.exit(main())
