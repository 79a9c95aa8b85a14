"""The sections of the page that `prediction_difference.py` writes: each makes its picture and returns its lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import prediction_difference_figures as figures
import prediction_difference_runs as runs
import prediction_difference_units as inside
from prediction_difference_runs import FEWER, SAMPLES, STEPS, TEN, Data, Sampled, evidence, pearson, rank
from scipy.stats import spearmanr

from onnxplain.runtime.perturb.difference import corners

Doubles = npt.NDArray[np.float64]
Found = Mapping[str, Sequence[Sampled]]
"""Variant -> digits."""
Lines = list[str]

PICTURES = Path(__file__).parent / "results" / "prediction_difference"
VARIANTS = ("marginal", "conditional")
WINDOWS: Mapping[str, tuple[tuple[int, int], int]] = {
    "4 × 4, middle": ((12, 12), 4),
    "10 × 10, corner": (inside.CORNER, inside.WIDE),
    "10 × 10, middle": (inside.CENTRE, inside.WIDE),
}
EDGES = (0.001, 0.01, 0.05, 0.1)
ALIKE = 0.8


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *body]


def picture(name: str, words: str) -> Lines:
    return ["", f"![{words}]({PICTURES.name}/{name}.png)", ""]


def spread(values: Sequence[float] | Doubles) -> str:
    return f"{np.median(values):.2f} ({np.min(values):.2f} to {np.max(values):.2f})"


def agreement(found: Sequence[Sampled]) -> dict[int, Doubles]:
    """S -> rank correlations of Algorithms 1 and 2, (digits,)."""
    steps = [s for s in STEPS if s <= found[0].p.shape[1]]
    return {s: np.array([rank(one.first(0, s), one.second) for one in found]) for s in steps}


def steps_of(one: Sampled) -> list[float]:
    """Correlations with Algorithm 2 over all pixels, over those with evidence, Pearson's; then the two steps from
    Algorithm 1 to it: arithmetic to geometric mean, geometric mean to mean input."""
    first, second, middle = one.first(0, one.p.shape[1]), one.second, one.map(one.geometric)
    return [
        rank(first, second),
        rank(first, second, evidence(first, second)),
        pearson(first, second),
        rank(first, middle),
        rank(middle, second),
    ]


def alike(values: Doubles) -> str:
    return f"{int((values > ALIKE).sum())} of {len(values)}"


def ten_digits(of: Data, found: Found, more: Found) -> Lines:
    """Fig. 13."""
    curves = {variant: agreement(found[variant]) for variant in VARIANTS}
    figures.both_algorithms(of, found, PICTURES / "digits.png")
    figures.agreement(curves, PICTURES / "agreement.png")
    rows = [[variant, *(spread(list(curve[s])) for s in STEPS)] for variant, curve in curves.items()]
    lines = [
        "## P8, Fig. 13: ten digits, Algorithm 1 beside Algorithm 2",
        "",
        "Windows of 4 × 4, maps of the predicted class in bits of log-odds; marginal: the window of other digits at "
        "the same place; conditional: a Gaussian of 8 × 8 patches. Every map has its own scale.",
        *picture("digits", "digits and maps of both algorithms"),
        "Spearman's correlation of the two maps over all 784 pixels, median and range of the ten digits:",
        "",
        *table(["", *(f"S = {s}" for s in STEPS)], rows),
        *picture("agreement", "correlation against S"),
    ]
    for variant, curve in curves.items():
        low = [f"{i} ({value:.2f})" for i, value in enumerate(curve[SAMPLES]) if value <= ALIKE]
        again = agreement(more[variant])[TEN]
        doubt = [1 - one.prober.base.max() for one in [*found[variant], *more[variant]]]
        link = spearmanr([*curve[SAMPLES], *again], doubt).statistic
        lines += [
            f"- {variant}: above {ALIKE} at S = {SAMPLES} for {alike(curve[SAMPLES])} digits; below: "
            f"{', '.join(low) or 'none'}. Of more digits, two of each, at S = {TEN}: {alike(again)}, "
            f"{spread(again)}. The surer LeNet is, the better (rank correlation with 1 − p over all {len(doubt)}: "
            f"{link:.2f})."
        ]
    return [*lines, "", *by_digit(found), *why_not_all(found)]


def counted_alike(found: Found, more: Found) -> str:
    """Of all digits with S = 100 or 10."""
    parts = []
    for variant in VARIANTS:
        values = [agreement(found[variant])[SAMPLES], agreement(more[variant])[TEN]]
        parts.append(f"{alike(np.concatenate(values))} digits above {ALIKE} ({variant})")
    return ", ".join(parts)


def by_digit(found: Found) -> Lines:
    rows = []
    for digit in range(10):
        both = [found[variant][digit] for variant in VARIANTS]
        values = [f"{v:.2f}" for one in both for v in steps_of(one)]
        rows.append([str(digit), f"{1 - both[0].prober.base.max():.0e}", *values])
    names = ["all pixels", "evidence", "Pearson", "mean → NGM", "NGM → Alg. 2"]
    head = ["digit", "1 − p", *(f"m.: {n}" for n in names), *(f"c.: {n}" for n in names)]
    return [
        f"By digit, S = {SAMPLES} (m. marginal, c. conditional). Evidence: only pixels with more than 1 % of the "
        "largest value in either map. The last two say where the rank order is lost: between the arithmetic mean of "
        "the samples' probabilities and their normalised geometric mean (Eq. 15), or between that and one pass at "
        "the mean input (Eq. 16).",
        "",
        *table(head, rows),
        "",
    ]


def why_not_all(found: Found) -> Lines:
    marginal = found["marginal"]
    one, others = marginal[1], [s for i, s in enumerate(marginal) if i != 1]
    blank = [int(((s.first(0, SAMPLES) == 0) & (s.second == 0)).sum()) for s in marginal]

    def undecided(of: Sampled) -> float:
        above = (of.p > 0.5).mean(axis=1)
        return float(100 * ((above > 0.1) & (above < 0.9)).mean())

    return [
        "More samples do not help: the curves are flat from S = 5 on, and what is missing is a bias. LeNet is unsure "
        f"of the 1 (p = {one.prober.base[1]:.2f}): in {undecided(one):.0f} % of its marginal windows at least a "
        f"tenth of the fills decide otherwise than the rest (others: {spread([undecided(s) for s in others])} %), "
        "and there the mean of a probability is not the probability of the mean. Pixels that are exactly 0 in both "
        f"maps (black in all digits), hence tied, are {min(blank)} to {max(blank)} of 784 and decide nothing. In "
        "the marginal maps of 3 and 5, where p is 1 to five digits, the many faint pixels agree better than the strong "
        "ones.",
        "",
    ]


def sampled_second(of: Data, found: Found) -> Lines:
    """Fig. 15."""
    figures.sampled_second(of, found, PICTURES / "sampled.png")
    columns: Mapping[str, Callable[[Sampled], float]] = {
        "Alg. 1 of other samples": lambda one: rank(one.first(0, TEN), one.first(TEN, 2 * TEN)),
        "Alg. 2": lambda one: rank(one.first(0, TEN), one.second),
        "its mean clipped": lambda one: rank(one.first(0, TEN), one.map(one.at["clipped"])),
        "mean of the same 10": lambda one: rank(one.first(0, TEN), one.map(one.at["ten"])),
        "of 10 others": lambda one: rank(one.first(0, TEN), one.map(one.at["next"])),
        f"of {FEWER}": lambda one: rank(one.first(0, TEN), one.map(one.at["many"])),
    }
    rows = []
    for variant, name in (("conditional", "clipped to the data's range"), ("unclipped", "not clipped")):
        rows.append([name, *(spread([column(one) for one in found[variant]]) for column in columns.values())])
    return [
        "## P9, Fig. 15: Algorithm 2 with the mean of 10 samples",
        "",
        f"Rank correlation with Algorithm 1 at S = {TEN}, conditional; median and range of the ten digits:",
        "",
        *table(["samples of Alg. 1", *columns], rows),
        *picture("sampled", "Algorithm 1, Algorithm 2 with the mean of ten samples, and Algorithm 2"),
        "Numbers in the picture: rank correlation with the Algorithm 1 of the same block.",
        "",
        "Reproduced: the sampled Algorithm 2 resembles Algorithm 1 more than the exact one does. Not reproduced: the "
        "paper's conclusion that shapes differ because Algorithm 1 takes few samples. Two runs of Algorithm 1 with "
        f"other samples are alike (first column), and the mean of 10 others, or of {FEWER}, resembles it nearly as "
        "much as the mean of its own. Most of it is clipping: samples are cut to the range of the data, the "
        "conditional mean of Algorithm 2 is that of the Gaussian, which on a black ground is another fill. Clipping "
        "the mean itself closes a part of the gap. Where nothing is clipped, the mean of few samples is still closer "
        "than the exact one and comes nearer to it with more: there noise of the fill counts, shared or not. (A "
        "window has 16 numbers here; 300 in the paper.)",
        "",
    ]


def noise(sampled: Sequence[Sampled]) -> Lines:
    """Fig. 16."""
    bits, plain = (runs.noise(sampled, odds) for odds in ("log2-odds", "difference"))
    curves = {
        "map of probabilities": {s: of.deviation for s, of in plain.items()},
        "map of log-odds": {s: of.deviation for s, of in bits.items()},
    }
    figures.noisy(curves, sampled, figures.liveliest(sampled, 4), PICTURES / "noise.png")
    rows = [[name, *(f"{v:.4f}" for v in c.values()), f"{runs.slope(c):.2f}"] for name, c in curves.items()]
    means = [f"{of.mean:.3f}" for of in bits.values()]
    size = np.sqrt(np.mean([one.second**2 for one in sampled]))
    return [
        "## P9, Fig. 16: noise against S",
        "",
        "Standard deviation of Algorithm 1's map over repeats, conditional, root mean square over pixels and digits; "
        f"the maps of log-odds themselves have {size:.2f}:",
        "",
        *table(["S", *map(str, bits), "slope of logarithms"], rows),
        *picture("noise", "noise against S, and the difference of the two probabilities in four windows"),
        "Reproduced: noise falls with S, that of probabilities as 1/√S, slope −0.5. That of log-odds falls more "
        "slowly: the odds of a mean rest on rare fills that change the decision, which few samples mostly miss, so "
        f"that they are also too small at small S (mean of the maps in bits, S = 1 to 50: {', '.join(means)}).",
        "",
        "Right: the window whose samples differ most, for the four digits where they do most. The difference of the "
        "two algorithms fluctuates at small S and settles, but not at 0: what is left is the bias of Algorithm 2.",
        "",
    ]


def errors(of: Data) -> Lines:
    """Fig. 11."""
    found = {name: inside.means(of, *window) for name, window in WINDOWS.items()}
    figures.errors(found, PICTURES / "errors.png")
    rows, falling = [], []
    for name, m in found.items():
        means = [np.abs(a - b).mean() for a, b in ((m.arithmetic, m.geometric), (m.geometric, m.at_mean))]
        shares = [f"{v:.1%}" for v in inside.shares(m.error, EDGES).values()]
        rows.append([name, *shares, *(f"{v:.4f}" for v in (m.error.mean(), *means))])
        counts = np.histogram(m.error, np.arange(0, 1.01, 0.1))[0]
        falling.append(f"{name}: {', '.join(map(str, counts[: np.flatnonzero(counts)[-1] + 1]))}")
    head = ["window", *(f"< {e}" for e in EDGES), "mean error", "mean → NGM", "NGM → at the mean"]
    return [
        "## P4, Fig. 11: the error of one pass at the conditional mean",
        "",
        "200 digits, one window, 500 conditional samples: |mean of P over the samples − P at their mean|; share of "
        "digits below an error, and the mean error of the two steps.",
        "",
        *table(head, rows),
        *picture("errors", "histograms of the error"),
        f"Digits in bins of 0.1: {'; '.join(falling)}. In such bins the histogram falls everywhere. More "
        "than half near 0: so it is for a window of 4 × 4, and in the corner, where a digit has no ink. Not for "
        "10 × 10 pixels in the middle, an eighth of the picture, which decide the class: a quarter is below 0.01, "
        "fewer than half below 0.05. (In the paper 10 × 10 are 0.2 % of the picture.)",
        "",
    ]


def hidden(of: Data) -> Lines:
    """Fig. 9."""
    first = inside.units(of, 3, "fc1", inside.CORNER, 160)
    corner, centre = (inside.all_units(of, "fc1", place, 160) for place in (inside.CORNER, inside.CENTRE))
    layers = {layer: inside.all_units(of, layer, inside.CENTRE, 500) for layer in inside.RELUS}
    figures.hidden(corner, centre, layers, PICTURES / "hidden.png")
    rows = []
    named = {"digit 3, corner": first, "ten digits, corner": corner, "ten digits, middle": centre}
    for name, u in named.items():
        middle = [f"{np.median(v):.2f}" for v in (np.abs(u.mean), u.deviation, u.ratio)]
        rows.append([name, *middle, *(f"{(u.ratio > n).mean():.0%}" for n in (1, 2, 4))])
    head = ["window of 10 × 10", "median of abs(μ)", "of σ", "of abs(μ)/σ", "above 1", "above 2", "above 4"]
    return [
        "## P3, Fig. 9: what a dense ReLU sees of a window",
        "",
        "160 conditional samples (Gaussian of 18 × 18 patches); mean μ and deviation σ of each of the 128 inputs of "
        "the ReLU behind fc1, LeNet's only dense one.",
        "",
        *table(head, rows),
        *picture("hidden", "histograms of mean, deviation and their ratio; the error of a ReLU"),
        "Reproduced for the paper's window, in the corner: σ is small and |μ|/σ large. In the middle of the digit "
        "the ratio is above 2 for two thirds of the units. Not reproduced: μ near 0. LeNet's means spread over ±10 "
        f"({(centre.mean > 0).mean():.0%} above 0), which is why the ratio is large.",
        "",
        *rectifiers(layers),
    ]


def rectifiers(layers: Mapping[str, inside.Units]) -> Lines:
    """Eq. 18-19."""
    drawn = inside.monte_carlo()
    off = max(abs(a - b) for a, b in drawn.values()) / inside.rectifier_error(0.0, 1.0)
    rows = []
    for layer, u in layers.items():
        mine, expected, far = u.error[u.alive], u.expected, u.ratio > 2
        numbers = [f"{v:.4f}" for v in (mine.mean(), expected.mean())]
        shares = [
            f"{np.corrcoef(mine, expected)[0, 1]:.3f}",
            f"{far.mean():.0%}",
            f"{mine[far].sum() / mine.sum():.1%}",
        ]
        rows.append([layer, str(mine.size), *numbers, *shares])
    head = [
        "ReLU behind",
        "units",
        "measured",
        "closed form",
        "correlation",
        "units above 2",
        "their share of the error",
    ]
    return [
        "## P5, Eq. 18-19: E[ReLU] − ReLU(E)",
        "",
        "A normal variable, σ = 1, 10⁶ samples, against σ φ(μ/σ) − |μ| Φ(−|μ|/σ), which is 1/√(2π) = 0.39894 at μ = "
        f"0; largest deviation {off:.2%} of that:",
        "",
        *table(
            ["μ/σ", "sampled", "closed form"],
            [[f"{r:+.1f}", f"{a:.5f}", f"{b:.5f}"] for r, (a, b) in drawn.items()],
        ),
        "",
        "On LeNet (10 × 10 in the middle, 500 samples, all digits, units that the window moves), with each unit's "
        "own μ and σ, means over units; then the units with |μ|/σ above 2:",
        "",
        *table(head, rows),
        "",
        "Reproduced: the closed form predicts the measured error unit by unit (right panel above), though no unit is "
        "exactly normal. conv1 departs most: its inputs are sums of a few clipped pixels.",
        "",
    ]


def following(of: Data, sampled: Sequence[Sampled]) -> Lines:
    """Fig. 17 and 18."""
    found = {move.name: runs.moved(of, sampled, move) for move in runs.MOVES}
    figures.following(of, sampled, found, PICTURES / "following.png")
    rows = []
    for name, all_moved in found.items():
        kept = [(a, b.second) for a, b in zip(all_moved, sampled, strict=True) if a.kept]
        values = [
            [pearson(a.returned, b, a.whole) for a, b in kept],
            [pearson(a.heat, b) for a, b in kept],
            [rank(a.returned, b, a.whole) for a, b in kept],
        ]
        rows.append([name, f"{len(kept)} of 10", *map(spread, values)])
    head = [
        "digit",
        "class kept",
        "Pearson, brought back",
        "Pearson, left where it is",
        "Spearman, brought back",
    ]
    return [
        "## P10, Fig. 17-18: does evidence follow the object?",
        "",
        "Algorithm 2 (conditional) on moved digits, for the class that they had; correlation with the map of the "
        "digit as it was, over digits that keep their class.",
        "",
        *table(head, rows),
        *picture("following", "maps of moved digits"),
        "It follows, for most digits, where LeNet reads them as before: shifts, small turns, a crop. Not for all: "
        "LeNet was trained on centred digits and its dense layers know places, and another part of a shifted 6 or 8 "
        "decides. Flips and quarter turns, which a husky survives, make other signs of most digits (brackets), and "
        "those that keep their class are read off other parts: the map of a flipped 0 or 8 stays where it was.",
        "",
    ]


def gradients(of: Data, counted: runs.Counted) -> Lines:
    """Fig. 19."""
    found = runs.third(of, counted)
    figures.gradients(of, found, PICTURES / "gradient.png")
    pairs = {
        "Alg. 3 and Alg. 2 (log-odds)": [(one.gradient, one.odds) for one in found],
        "Alg. 3 and Alg. 2 (probability)": [(one.gradient, one.probability) for one in found],
        "both of the logit": [(one.gradient_logit, one.logit) for one in found],
    }
    rows = []
    for name, maps in pairs.items():
        rough = [runs.roughness(a) / runs.roughness(b) for a, b in maps]
        values = [spread([f(a, b) for a, b in maps]) for f in (rank, pearson)]
        rows.append([name, *values, spread(rough), f"{sum(r > 1 for r in rough)} of 10"])
    layers, forward, backward = runs.passes(of)
    return [
        "## P11, Fig. 19: Algorithm 3 beside Algorithm 2",
        "",
        "Conditional, 4 × 4; median and range of the ten digits. Roughness: mean difference of neighbours over the "
        "mean of the map, Algorithm 3's over Algorithm 2's.",
        "",
        *table(["", "Spearman", "Pearson", "roughness", "rougher for"], rows),
        *picture("gradient", "maps of Algorithms 2 and 3"),
        f"LeNet has {layers} layers with weights; the file of `pda.gradient` holds {forward} such nodes of the "
        f"forward and {backward} of the backward pass: one pass each, against {counted.second[0]} forward passes. It "
        "finds much of the strong evidence, also some against the class that Algorithm 2 does not see (3, 4, 7), and "
        "is a little rougher; the gap is smaller than the paper's on VGG16.",
        "",
    ]


def forwards(counted: runs.Counted) -> Lines:
    """Fig. 12."""
    large = len(corners((224, 224), 10))
    small = [" or ".join(map(str, sorted(set(counts)))) for counts in (counted.second, counted.first)]
    rows = [["28 × 28, k = 4: 25²", *small], ["224 × 224, k = 10: 215²", str(large), str(TEN * large)]]
    return [
        "## P2, Fig. 12: forward passes",
        "",
        "(n − k + 1)² windows; counted in runs of `pda.mean` and `pda.sampling` on the ten digits, for 224 × 224 "
        "from the list of windows. Times are not measured here.",
        "",
        *table(["", "Algorithm 2", f"Algorithm 1, S = {TEN}"], rows),
        "",
        "The paper reckons with 224² × 10 = 501 760; its own formula gives the figure above. The maps of these runs, "
        f"on whole copies, are those of the incremental runs above to {counted.off:.0e} of their maximum.",
        "",
    ]
