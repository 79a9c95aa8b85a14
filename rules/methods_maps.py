"""Averages of maps, and activation maps, as methods: data over rules."""

from __future__ import annotations

from types import MappingProxyType

from ..rewriter.method import Method, Option, Options
from . import cam
from .baselines import BASELINE
from .checks import number, whole
from .gates import OPTIONS, guided
from .gradient import GRADIENT
from .methods import PLAIN
from .readouts import keep
from .sampling import LANES, NODES, noise, path

INTEGRATED_GRADIENTS = Method(
    name="integrated-gradients",
    title="Integrated gradients",
    family="path",
    rules=lambda options: GRADIENT,
    read=keep,
    cost="1 forward + steps x (forward + backward)",
    source="Sundararajan et al. 2017; Ayyar et al. 2021 Eq. 7",
    display="sum,sym",
    sampling=path,
    options={
        "steps": Option(50, None, "points on the path", whole(1, 10_000)),
        "rule": Option("midpoint", NODES, "where the points lie and what they weigh"),
        "baseline": BASELINE,
        "lanes": LANES,
    },
)
NOISE = MappingProxyType(
    {
        "inner": Option("saliency", None, "the method whose maps are averaged; its options are taken too"),
        "samples": Option(
            50, None, "noisy copies; the number of rows of the input `noise` decides", whole(1, 100_000)
        ),
        "sigma": Option(0.15, None, "standard deviation, as a share of the input's range", number(0.0)),
        "seed": Option(0, None, "of the noise that the runtime feeds", whole(0, 2**63 - 1)),
        "lanes": LANES,
    }
)


def _inner(options: Options) -> Method:
    from .registry import find  # the registry lists this module

    return find(options["inner"])


def _averaged(name: str, title: str, kind: str) -> Method:
    return Method(
        name=name,
        title=title,
        family="noise",
        rules=lambda options: GRADIENT,
        read=keep,
        cost="1 forward + samples x (forward + backward)",
        source="Smilkov et al. 2017; Adebayo et al. 2018; Ayyar et al. 2021 Eq. 8",
        display="maxabs",
        options=NOISE,
        sampling=lambda options: noise(options, kind),
        of=_inner,
    )


SMOOTHGRAD = _averaged("smoothgrad", "SmoothGrad", "mean")
SMOOTHGRAD_SQUARED = _averaged("smoothgrad-squared", "SmoothGrad squared", "square")
VARGRAD = _averaged("vargrad", "VarGrad", "variance")
CAM = Method(
    name="cam",
    title="CAM",
    rules=lambda options: GRADIENT,
    read=cam.cam,
    cost="1 forward",
    source="Zhou et al. 2016; Ayyar et al. 2021 section 4.6",
    options=cam.LAYERED,
    starts_at_layer=True,
    family="activation map",
    display="sym",
)
GRAD_CAM = Method(
    name="grad-cam",
    title="Grad-CAM",
    family="activation map",
    rules=lambda options: GRADIENT,
    read=cam.grad_cam,
    cost="1 forward + backward to the layer",
    source="Selvaraju et al. 2017; Ayyar et al. 2021 Eq. 9-10",
    display="max",
    options=cam.GRAD_CAM_OPTIONS,
    starts_at_layer=True,
)
GUIDED_GRAD_CAM = Method(
    name="guided-grad-cam",
    title="Guided Grad-CAM",
    family="activation map",
    rules=guided,
    read=cam.guided_grad_cam,
    cost="1 forward + 2 backward",
    source="Selvaraju et al. 2017; Ayyar et al. 2021 section 4.6.1",
    display="centre",
    options={**OPTIONS, "layer": cam.LAYER},
    approximates=PLAIN,
)
FEM = Method(
    name="fem",
    title="Feature explanation method",
    family="activation map",
    rules=lambda options: GRADIENT,
    read=cam.fem,
    cost="1 forward",
    source="Ahmed Asif Fuad et al. 2020; Ayyar et al. 2021 Eq. 26",
    display="max",
    options=cam.FEM_OPTIONS,
    starts_at_layer=True,
)
