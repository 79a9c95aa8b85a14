"""Damaged files are taken or refused with an ExplainError: a short part of the cases, in processes of their own.

The whole: python -m tests.fuzz.run KIND 0 20000. Seeds are the numbers of the cases. Sound graphs (kind "graph") agree
with difference quotients.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz.cases import bytes_of
from tests.fuzz.run import run
from tests.fuzz.seeds import sound_models

CASES = {"source": 200, "operator": 60, "emitted": 40, "graph": 40}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_damaged_files_give_explain_errors(kind: str) -> None:
    tally = run(kind, 0, CASES[kind])
    assert not tally.finds, tally.finds[:5]
    assert sum(tally.counts.values()) == CASES[kind]
    assert (tally.counts["taken"] or tally.counts["agrees"]) and tally.counts[
        "refused"
    ]  # neither all sound nor all beyond repair


def test_a_case_is_the_same_everywhere() -> None:
    sound = {model.SerializeToString() for model in sound_models().values()}
    files = [bytes_of("source", number) for number in range(50)]
    assert files == [bytes_of("source", number) for number in range(50)]
    assert len(set(files) - sound) > 30
    assert np.unique([len(data) for data in files]).size > 10
