"""What is timed: a call that explains, or only runs, a network, by the name of who does it and what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.case import LOPSIDED, OVERLAP, Case, Run

FORWARD = "onnxruntime forward"
OUTPUTS = 1e-4
"""Largest difference of an output to onnxruntime's, over the largest output."""
GRADIENT = 0.05
"""Relative L2 distance of an attribution to onnxplain's. Not rounding: an activation that lies within rounding
of a kink falls on either side of it, which opens or shuts a path of the network. Between float32 and float64 in
torch alone this makes up to a few hundredths in deep networks; a wrong rule makes about 1."""
RELEVANCE = 1e-3
"""The same for relevance that is in proportion to activations: there a unit near a kink carries next to nothing."""

STEPS, LANES = 32, 4
"""Integrated gradients: steps, and how many of them captum runs at once (onnxplain does 4 by default). All at once,
captum's default, is slower on a processor and takes several times the memory."""
LOW, HIGH = -1.0, 1.0
"""Bounds of the pixels, for the z-box rule."""


@dataclass(frozen=True)
class Ours:
    """A method of onnxplain with its options. batched: also at batches above 1."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = False


@dataclass(frozen=True)
class Peer:
    """Another library's way to the map of `against` (FORWARD: the output), made by `run` of the module torch_peers.

    limit: the largest distance that is accepted. differs: operator of the network → why the definitions differ in its
    presence, so that the distance is shown only. lacks: operator → why the library cannot do it, or does something
    else in silence. needs: operators one of which must be there, and what it means that none is.
    """

    run: str
    against: str
    limit: float = GRADIENT
    more: tuple[Any, ...] = ()
    differs: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    package: str = "torch"
    batched: bool = False
    compiled: bool = False

    def call(self, case: Case) -> Run:
        from benchmarks import torch_peers

        torch_peers.settle(case.threads)
        run: Callable[..., Run] = getattr(torch_peers, self.run)
        return run(*self.more, case)


@dataclass(frozen=True)
class Group:
    """Variants that take turns in one process, the forward pass with them. weighed: those whose memory is measured, at
    the first batch. heavy: left out for large networks, unless it is asked for."""

    ours: tuple[str, ...]
    peers: tuple[str, ...]
    weighed: tuple[str, ...] = ()
    heavy: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The variants that need a file of their own."""
        return (*self.ours, *(name for name in self.weighed if name in OURS and name not in self.ours))


OURS: Mapping[str, Ours] = MappingProxyType(
    {
        "onnxplain saliency": Ours("saliency", batched=True),
        "onnxplain guided-backprop": Ours("guided-backprop"),
        "onnxplain grad-cam": Ours("grad-cam"),
        "onnxplain fem": Ours("fem"),
        "onnxplain guided-grad-cam": Ours("guided-grad-cam"),
        "onnxplain lrp.epsilon": Ours("lrp.epsilon"),
        "onnxplain lrp.epsilon-plus": Ours("lrp.epsilon-plus", batched=True),
        "onnxplain lrp.epsilon-gamma-box": Ours("lrp.epsilon-gamma-box", {"low": LOW, "high": HIGH}),
        "onnxplain deeplift.rescale": Ours("deeplift.rescale"),
        "onnxplain integrated-gradients": Ours("integrated-gradients", {"steps": STEPS}),
        "onnxplain integrated-gradients, 8 steps": Ours("integrated-gradients", {"steps": 8}),
        "onnxplain integrated-gradients, 128 steps": Ours("integrated-gradients", {"steps": 128}),
    }
)

RELU6 = {"Clip": "they hook nn.ReLU only; at ReLU6 the result is the plain gradient"}
ATTENTION = {
    "LayerNormalization": "it has no rule for LayerNorm, GELU and attention, and takes the gradient there"
}
SMOOTH = {"LayerNormalization": "there is no rectifier to hook: it would be the plain gradient"}
SPATIAL = {
    op: "the output is a picture: there is no last map of features behind which classes are told apart"
    for op in ("Resize", "ConvTranspose")
}
CONCAT = {"Concat": "it adds relevance and gradients up where a value goes into a Concat and a convolution"}
BORDER = {LOPSIDED: "its box has no place for a padding that only torch needs as a module of its own"}
WINDOWS = {"MaxPool": "captum's rule for MaxPool lets windows and stale gradients overwrite one another"}
POOLS = {OVERLAP: "where windows of a MaxPool overlap, shap keeps what one of them sends back"}

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "torch forward": Peer("forward", FORWARD, OUTPUTS, batched=True),
        "torch gradient": Peer("gradient", "onnxplain saliency", batched=True),
        "torch gradient, channels last": Peer("gradient_channels_last", "onnxplain saliency", batched=True),
        "torch gradient, compiled": Peer("gradient_compiled", "onnxplain saliency", compiled=True),
        "captum Saliency": Peer("captum_saliency", "onnxplain saliency", package="captum", batched=True),
        "captum GuidedBackprop": Peer(
            "captum_guided_backprop",
            "onnxplain guided-backprop",
            lacks=RELU6 | SMOOTH,
            package="captum",
        ),
        "captum GuidedGradCam": Peer(
            "guided_grad_cam",
            "onnxplain guided-grad-cam",
            lacks=RELU6 | SMOOTH | SPATIAL,
            package="captum",
        ),
        "captum LRP": Peer(
            "captum_lrp", "onnxplain lrp.epsilon", lacks=RELU6 | ATTENTION | CONCAT, package="captum"
        ),
        "zennit EpsilonPlus": Peer(
            "zennit",
            "onnxplain lrp.epsilon-plus",
            RELEVANCE,
            ("EpsilonPlus",),
            lacks=ATTENTION,
            package="zennit",
            batched=True,
        ),
        "zennit EpsilonGammaBox": Peer(
            "zennit",
            "onnxplain lrp.epsilon-gamma-box",
            GRADIENT,
            ("EpsilonGammaBox",),
            lacks=ATTENTION | BORDER,
            package="zennit",
        ),
        "captum DeepLift": Peer(
            "captum_deep_lift",
            "onnxplain deeplift.rescale",
            differs=WINDOWS,
            lacks=RELU6 | ATTENTION,
            package="captum",
        ),
        "shap DeepExplainer": Peer(
            "shap_deep", "onnxplain deeplift.rescale", differs=POOLS, lacks=RELU6 | ATTENTION, package="shap"
        ),
        "captum IntegratedGradients": Peer(
            "integrated_gradients", "onnxplain integrated-gradients", more=(LANES,), package="captum"
        ),
        "captum IntegratedGradients, all steps at once": Peer(
            "integrated_gradients",
            "onnxplain integrated-gradients",
            more=(None,),
            package="captum",
        ),
    }
)

GROUPS = (
    Group(
        ("onnxplain saliency", "onnxplain guided-backprop"),
        (
            "torch forward",
            "torch gradient",
            "torch gradient, channels last",
            "torch gradient, compiled",
            "captum Saliency",
            "captum GuidedBackprop",
        ),
        (FORWARD, "onnxplain saliency", "torch gradient", "captum Saliency"),
    ),
    Group(
        ("onnxplain grad-cam", "onnxplain fem", "onnxplain guided-grad-cam"),
        ("captum GuidedGradCam",),
    ),
    Group(
        ("onnxplain lrp.epsilon", "onnxplain lrp.epsilon-plus", "onnxplain lrp.epsilon-gamma-box"),
        ("captum LRP", "zennit EpsilonPlus", "zennit EpsilonGammaBox"),
        ("onnxplain lrp.epsilon-plus", "zennit EpsilonPlus"),
    ),
    Group(("onnxplain deeplift.rescale",), ("captum DeepLift", "shap DeepExplainer")),
    Group(
        ("onnxplain integrated-gradients",),
        ("captum IntegratedGradients",),
        (
            "onnxplain integrated-gradients",
            "onnxplain integrated-gradients, 8 steps",
            "onnxplain integrated-gradients, 128 steps",
            "captum IntegratedGradients",
            "captum IntegratedGradients, all steps at once",
        ),
        heavy=True,
    ),
)
"""Small enough for the memory of 24 GiB at batch 8: a session of VGG-16 takes one to three of them."""


def obstacle(variant: str, operators: Set[str]) -> str | None:
    """Why a peer does not have this method for a network of these operators, or None."""
    lacks = PEERS[variant].lacks
    return next((why for op, why in lacks.items() if op in operators), None)


def difference(variant: str, operators: Set[str]) -> str | None:
    """Why a peer's result need not be onnxplain's, or None."""
    differs = PEERS[variant].differs
    return next((why for op, why in differs.items() if op in operators), None)
