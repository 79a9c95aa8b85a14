"""Efficient prediction difference analysis on LeNet and digits: `python experiments/prediction_difference.py`.

After Gu and Tresp 2017, who used an MNIST net of the same kind for Fig. 13, AlexNet, VGG16 and ImageNet for the others.
Gaussians are fitted on 1000 digits, others are explained. Writes results/prediction_difference.md and the pictures in
the folder of that name; takes two to three minutes on two cores.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are small, and two digits are run at a time

import prediction_difference_report as report
import prediction_difference_runs as runs
from rich.progress import track

CLAIMS = (
    ("P2: S times fewer forward passes", "yes, exactly"),
    (
        "P3: inputs of dense ReLUs have small σ, large abs(μ)/σ",
        "yes in the corner, less over the digit; μ not near 0",
    ),
    (
        "P4: most errors near 0, falling histogram",
        "falling: yes; most near 0: unless the window covers the digit",
    ),
    ("P5: error of a ReLU, Eq. 18-19", "yes, also measured inside LeNet"),
    (
        "P8: maps of Algorithms 1 and 2 alike",
        "yes for most: {alike}; less where LeNet is unsure, and more samples change nothing",
    ),
    ("P9: noise of Algorithm 1 falls with S", "yes, as 1/√S for probabilities, more slowly for log-odds"),
    ("P9: sampled Algorithm 2 resembles Algorithm 1", "yes, but mainly because samples are clipped"),
    (
        "P9: the two differ because Algorithm 1 samples little",
        "no: at S = 10 its noise is small, the rest is bias",
    ),
    ("P10: evidence follows the object", "mostly, for small moves; not under flips and quarter turns"),
    ("P11: Algorithm 3 is noisier, 1 + 1 passes", "yes, a little noisier for most digits"),
)


def page(sections: list[report.Lines], alike: str) -> str:
    head = [
        "# Prediction difference analysis on LeNet and digits",
        "",
        "Made by `python experiments/prediction_difference.py`, after Gu and Tresp 2017. Algorithm 1 is "
        "`pda.sampling`, Algorithm 2 `pda.mean`, Algorithm 3 `pda.gradient`. Gaussians are fitted on 1000 MNIST "
        "digits, which are also the other images of the marginal variant; explained are others (LeNet has seen most of "
        "both in training).",
        "",
        *report.table(["claim", "here"], [(claim, answer.format(alike=alike)) for claim, answer in CLAIMS]),
        "",
    ]
    return "\n".join([*head, *(line for section in sections for line in section)]).rstrip() + "\n"


def main() -> None:
    report.PICTURES.mkdir(parents=True, exist_ok=True)
    of = runs.data()
    plan = (("marginal", runs.SAMPLES), ("conditional", runs.SAMPLES), ("unclipped", runs.FEWER))
    found, more = {}, {}
    for variant, samples in track(plan, "ten digits"):
        found[variant] = runs.sample_all(of, of.shown, variant, samples)
    for variant in track(report.VARIANTS, "more digits"):
        more[variant] = runs.sample_all(of, of.more, variant, runs.TEN)
    conditional = found["conditional"]
    counted = runs.count(of, conditional, "conditional")
    sections = [
        report.ten_digits(of, found, more),
        report.sampled_second(of, found),
        report.noise(conditional),
        report.errors(of),
        report.hidden(of),
        report.following(of, conditional),
        report.gradients(of, counted),
        report.forwards(counted),
    ]
    target = report.PICTURES.with_suffix(".md")
    target.write_text(page(sections, report.counted_alike(found, more)), encoding="utf-8")


if __name__ == "__main__":
    main()
