"""onnxplain: compile any ONNX model into a second ONNX file that explains its predictions.

explainer = onnxplain.compile("net.onnx", "guided-backprop")
explainer.save("net.guided-backprop.onnx")
result = onnxplain.load("net.guided-backprop.onnx")(x, target=[281])
onnxplain.explain("net.onnx", "cat.jpg", "saliency").save("cat.png")
onnxplain.perturb("net.onnx", "cat.jpg", "occlusion", budget="60s").maps
"""

from .rewriter.errors import (
    ExplainError,
    ExplainWarning,
    ImageError,
    ModelError,
    NotLinearError,
    OptionError,
    ProviderError,
    StaleError,
    TargetError,
    UnsupportedError,
)
from .rewriter.method import Method
from .rules.registry import methods
from .runtime.compiling import compile
from .runtime.compiling import package_version as _package_version
from .runtime.estimate import fit_patterns
from .runtime.explainer import Explainer, Result, load
from .runtime.perturb.perturbing import perturb
from .runtime.pictures import explain
from .runtime.scope import Interpreter
from .runtime.verify import verify

__version__ = _package_version()

__all__ = [
    "ExplainError",
    "ExplainWarning",
    "Explainer",
    "ImageError",
    "Interpreter",
    "Method",
    "ModelError",
    "NotLinearError",
    "OptionError",
    "ProviderError",
    "Result",
    "StaleError",
    "TargetError",
    "UnsupportedError",
    "compile",
    "explain",
    "fit_patterns",
    "load",
    "methods",
    "perturb",
    "verify",
]
