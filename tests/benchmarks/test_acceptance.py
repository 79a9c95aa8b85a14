"""Targets against made-up figures."""

from __future__ import annotations

import numpy as np

from benchmarks.acceptance import acceptance, missed
from benchmarks.files import Opening
from benchmarks.measure import Batch, Measured, faults
from benchmarks.variants import FORWARD
from benchmarks.worker import Timed


def measured(name: str, saliency: float, captum: float) -> Measured:
    """Multiples of the forward pass in the first group; nothing else was measured."""
    times = {FORWARD: 1.0, "onnxplain saliency": saliency, "captum Saliency": captum}
    group = Timed({variant: np.array([2.0, 3.0, 4.0]) * factor for variant, factor in times.items()})
    opening = Opening(10, 20, 1000, 1010, 0.2, 0.4)
    memory = {FORWARD: 100.0, "onnxplain saliency": 150.0}
    return Measured(name, 2.25, {1: Batch([group])}, opening, memory)


def line(page: str, start: str) -> str:
    (found,) = [row for row in page.splitlines() if row.startswith(f"| {start}")]
    return found


def test_met_missed_no_target_and_not_measured() -> None:
    page = acceptance(
        [measured("vgg16", 2.0, 2.5), measured("resnet50", 2.5, 6.0), measured("unet", 3.0, 3.0)]
    )
    saliency = line(page, "saliency / forward, time")
    assert "2.00 (2.1) met" in saliency
    assert "**2.50 (2.1) missed**" in saliency
    assert "3.00 (no target)" in saliency
    speed = line(page, "captum Saliency")
    assert "**1.25 (1.35) missed**" in speed  # a speed-up has to be at least its target
    assert "2.40 (2) met" in speed
    assert "not measured" in line(page, "lrp.epsilon / forward")
    assert line(page, "saliency / model, session creation").count("**2.00 missed**") == 3
    assert line(page, "saliency / model, file size").count("1.010 met") == 3
    assert line(page, "saliency / model, peak memory").count("1.50 met") == 3
    assert line(page, "floor").count("2.25") == 3


def test_count_of_missed_targets() -> None:
    # session creation, and the speed-up
    assert missed([measured("vgg16", 2.0, 2.5)]) == 2


def test_ratios_are_taken_within_a_group() -> None:
    both = Batch([Timed({FORWARD: np.ones(3), "torch gradient": np.full(3, 4.0)})])
    both.groups.append(Timed({FORWARD: np.full(3, 2.0), "onnxplain fem": np.full(3, 4.0)}))
    found = both.ratio("onnxplain fem")
    assert found is not None and found.median == 2.0
    assert both.ratio("onnxplain fem", "torch gradient") is None


def test_faults_are_listed_with_network_and_batch() -> None:
    one = measured("vgg16", 2.0, 2.5)
    one.batches[1].groups.append(Timed(faults={"captum LRP": "fails: E: x"}))
    one.faults["zennit EpsilonPlus"] = "fails: E: y"
    assert faults([one]) == [
        "VGG-16, batch 1: captum LRP fails: E: x",
        "VGG-16, memory: zennit EpsilonPlus fails: E: y",
    ]
