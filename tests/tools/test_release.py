"""A release is a heading, a version and a tag, or a refusal."""

from __future__ import annotations

import pytest

from tools.release import Refused, raised, released

LOG = "# Changelog\n\n## Unreleased\n\n- It sings.\n\n## 0.1.0 (2026-01-01)\n\n- It speaks.\n"
PROJECT = '[project]\nname = "x"\nversion = "0.1.9"\n\n[tool.other]\nversion = "7"\n'


def test_what_was_unreleased_gets_the_version_and_its_day() -> None:
    made = released(LOG, "0.2.0", "2026-12-01")
    assert made.index("## Unreleased") < made.index("## 0.2.0 (2026-12-01)") < made.index("It sings")
    assert made.count("It sings") == made.count("## Unreleased") == 1
    with pytest.raises(Refused, match="nothing"):
        released(made, "0.3.0", "2026-12-02")


def test_the_version_rises() -> None:
    assert raised(PROJECT, "0.1.10") == PROJECT.replace("0.1.9", "0.1.10")
    for version in ("0.1.9", "0.1.8", "0.0.99"):
        with pytest.raises(Refused, match="not above"):
            raised(PROJECT, version)
    with pytest.raises(Refused, match="three numbers"):
        raised(PROJECT, "1.0")
