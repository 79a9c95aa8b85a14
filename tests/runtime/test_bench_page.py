"""What `onnxplain bench` writes of figures that are given: cells, gaps, JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onnxplain.rewriter.cost import Floor
from onnxplain.runtime.bench import Report, Row, Spread
from onnxplain.runtime.bench.plot import plot
from tests.runtime.test_bench import MACHINE


def made_up(method: str, seconds: float, **changes: object) -> Row:
    known: dict[str, object] = {
        "method": method,
        "samples": 1,
        "seconds": Spread(seconds, seconds, seconds),
        "ratio": Spread(seconds / 0.01, seconds / 0.02, seconds / 0.005),
        "rounds": 9,
        "memory": 12.5,
        "bytes": 1000,
        "session": 0.1,
        "nodes": 3,
        "flops": 5,
        "traffic": 6,
        "floor": Floor(2.0, 3.0),
        "least": 0.004,
    }
    return Row(**{**known, **changes})  # type: ignore[arg-type]


def invented(*rows: Row) -> Report:
    return Report(
        "net.onnx",
        MACHINE,
        made_up("forward", 0.01, bytes=500, session=0.05, floor=Floor(1.0, 1.0)),
        rows,
        {},
        {"x": (1, 2)},
        "random numbers, seed 0",
        9,
        "cpu",
        None,
        {"onnxplain": "0"},
    )


def test_the_cells_of_a_row() -> None:
    row = made_up("smoothgrad", 0.08, samples=4)
    cells = [cell.strip() for cell in invented(row).markdown().splitlines() if "smoothgrad" in cell]
    assert cells == [
        "| `smoothgrad` | 80 ms | 8.00 (4.00-16.00) | 2.00 | 4 ms | 20.00 | 2.00 | 3.00 | 12 MiB | 2.000 | 2.00 |"
    ]


def test_what_the_floors_leave_out_is_said() -> None:
    found = invented(made_up("saliency", 0.02, uncounted=("LSTM at 'a': its FLOPs are not known", "b")))
    (line,) = found.gaps()
    assert line.startswith("The floors of `saliency` leave out 2 nodes, the first: LSTM at 'a'")
    assert line in found.markdown()


def test_an_infinite_floor_is_valid_json() -> None:
    found = invented(made_up("saliency", 0.02, floor=Floor(math.inf, 1.0), least=0.0))
    assert json.loads(found.json())["rows"][1]["floor"]["arithmetic"] is None
    assert found.rows[0].over_least == 0.0


HOSTILE = "a|b `c` <script>\n# $\\frac$ [d](javascript:e) \x1b[31m"


def test_hostile_names_are_text_on_the_page() -> None:
    found = replace(
        invented(made_up("saliency", 0.02, uncounted=(HOSTILE,))),
        title=HOSTILE,
        source=HOSTILE,
        shapes={HOSTILE: (1, 2)},
        refused={HOSTILE: HOSTILE},
    )
    page, plain = found.markdown(), invented(made_up("saliency", 0.02, uncounted=("b",))).markdown()
    told = page.replace("\n\n## Left out\n\n- ", "").count("\n"), plain.count("\n")
    assert told[0] - told[1] in (0, 1)  # no name breaks a line: only the list of what is left out is more
    assert "<script>" not in page and "\x1b" not in page and "[d](" not in page
    assert page.count(r"a\|b \`c\` &lt;script&gt;\\n# $\\frac$ \[d\](javascript:e)") == 6
    assert found.context.startswith(HOSTILE)  # the terminal has an escape of its own


@pytest.mark.parametrize("suffix", ("svg", "png"))
def test_hostile_names_are_text_in_the_picture(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bars.{suffix}"
    plot(replace(invented(made_up("$\\frac$<b>", 0.02)), title=HOSTILE), path)
    assert path.stat().st_size > 1000
    if suffix == "svg":
        words = path.read_text(encoding="utf-8")
        ElementTree.fromstring(words)
        assert "<script" not in words and "\x1b" not in words
