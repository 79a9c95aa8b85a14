"""The sweep over methods and inputs, on one small net: nothing is silent, and what is silent would be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.silent import GOLDEN, OPTIONS, Seen, look, report, sweep
from onnxplain import Explainer, methods

NET = GOLDEN / "mlp_bias.onnx"
MAPS = sorted(name for name, method in methods().items() if method.maps)


@pytest.mark.parametrize("name", MAPS)
def test_no_map_is_silent(name: str) -> None:
    """On zeros, a constant, the ends of the range and noise."""
    found = list(look(NET, name, OPTIONS.get(name, {}), 4))
    assert found and {seen.verdict for seen in found} <= {"fine", "told", "refused"}, found


def test_a_silent_map_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Input times gradient of zeros, by a file that does not tell."""
    init = Explainer.__init__

    def quiet(self: Explainer, *words: object, **more: object) -> None:
        init(self, *words, **more)  # type: ignore[arg-type]
        self.tells = False

    monkeypatch.setattr(Explainer, "__init__", quiet)
    (seen,) = look(NET, "input-x-gradient", {}, 1)
    assert (seen.case, seen.verdict) == ("zero", "silent")


def test_the_report_counts() -> None:
    found = [
        Seen("a", "m", "zero", "told"),
        Seen("a", "m", "constant", "fine"),
        Seen("b", "m", "", "refused"),
    ]
    assert report(found).splitlines()[-1] == "| all | 1 | 1 | 0 | 1 | 0 |"
    told: list[Seen] = []
    assert [seen.verdict for seen in sweep([Path(NET)], ["saliency"], 1, told.append)] == ["fine"]
    assert len(told) == 1
