"""Sessions of onnxruntime on the execution provider that was asked for, or an error: no quiet fallback.

On CUDA the algorithm of a convolution is chosen by heuristics (cudnn_conv_algo_search=HEURISTIC): the default of
onnxruntime times all of them for every new shape. Products and convolutions in float32 run in TF32, with a mantissa of
10 bits, as onnxruntime has it by default; ("cuda", {"use_tf32": 0}) gives the accuracy of the CPU. Options of the
caller win over both.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from ..rewriter.errors import ExplainError, ModelError, OptionError, ProviderError, nearest
from .cache import GRAPH, WEIGHTS, Cache, find_cache, key_of
from .loading import load_onnxruntime
from .subnormal import apart

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Option = str | int
Provider = str | tuple[str, Mapping[str, Option]]

_LOG = logging.getLogger(__name__)

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
        "directml": "DmlExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
        "webgpu": "WebGpuExecutionProvider",
        "qnn": "QNNExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
        "rocm": "ROCMExecutionProvider",
        "migraphx": "MIGraphXExecutionProvider",
        "dnnl": "DnnlExecutionProvider",
        "nnapi": "NnapiExecutionProvider",
        "vitisai": "VitisAIExecutionProvider",
        "cann": "CANNExecutionProvider",
        "acl": "ACLExecutionProvider",
        "azure": "AzureExecutionProvider",
    }
)
"""Short name -> the name onnxruntime uses."""

AUTO = ("cuda", "migraphx", "rocm", "directml", "cpu")
"""What "auto" tries, best first: providers that compute in float32 and start without building an engine."""

OPTIMIZATION: Mapping[str, str] = MappingProxyType(
    {
        "all": "ORT_ENABLE_ALL",
        "extended": "ORT_ENABLE_EXTENDED",
        "basic": "ORT_ENABLE_BASIC",
        "disabled": "ORT_DISABLE_ALL",
    }
)


def resolve(name: str) -> str:
    """The name onnxruntime uses for a provider, from the short or the full one, in any case.

    Raises OptionError with the nearest name for an unknown one.
    """
    known = {full.lower(): full for full in NAMES.values()} | dict(NAMES)
    if name.lower() not in known:
        hint = nearest(name.lower(), NAMES)
        raise OptionError(f"unknown execution provider {name!r}{hint}; known: auto, {', '.join(NAMES)}")
    return known[name.lower()]


def short_name(name: str) -> str:
    """The short name of a provider; a full name that is not in `NAMES` comes back as it is."""
    return next((short for short, full in NAMES.items() if full.lower() == name.lower()), name)


def compiled_in() -> tuple[str, ...]:
    """Short names of the providers the installed onnxruntime was built with. They need not work here."""
    return tuple(short_name(name) for name in load_onnxruntime().get_available_providers())


def create_session(
    model: bytes | str | os.PathLike[str],
    providers: str | Sequence[Provider] | None = None,
    *,
    threads: int | None = None,
    spinning: bool | None = None,
    optimization: str = "all",
    deterministic: bool = False,
    log_severity: int = 4,
    memory_pattern: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> InferenceSession:
    """Open a model (its bytes, or a path) on exactly the providers asked for.

    providers      None: the CPU. "auto": the first of `AUTO` that works; which one it was is logged and
                   stands in `session.get_providers()`. Else a name, or a sequence of names or (name,
                   options) in order of preference; the CPU takes the nodes they leave over, listed or not.
    threads        threads inside one operator; None leaves the choice to onnxruntime
    spinning       False lets idle threads sleep at once (for servers); None leaves the default
    optimization   "all", "extended", "basic" or "disabled" (bit-equal outputs of a model and its explanation)
    deterministic  choose kernels with a fixed order of summation; on CUDA also no TF32, unless the options of
                   the provider say otherwise
    log_severity   of onnxruntime on stderr: 0 verbose ... 3 errors, 4 fatal only (errors are raised anyway)
    memory_pattern False: every tensor is allocated by itself, for up to half the working memory
    cache          folder of optimised graphs (`runtime.cache`, for cpu and cuda); None: what ONNXPLAIN_CACHE says

    Subnormal numbers are treated as 0, which keeps gradients that fade away from slowing the CPU down; the thread that
    opens the session keeps them (`runtime.subnormal`).

    Raises ProviderError when onnxruntime is missing, a provider is not compiled in, or it was not taken
    (onnxruntime itself would go on without it); ModelError when the model cannot be loaded; OptionError for
    an unknown name or a value out of range.
    """
    ort = load_onnxruntime()
    settings = _Settings(ort, threads, spinning, optimization, deterministic, log_severity, memory_pattern)
    settings.cache = find_cache(cache)
    source = _source(model)
    if is_auto(providers):
        return _open_best(source, settings)
    requested = _normalise(providers, deterministic)
    _check_compiled_in(ort, [name for name, _ in requested])
    return _open(source, requested, settings)


def is_auto(providers: str | Sequence[Provider] | None) -> bool:
    """Whether "auto" is asked for, by itself or as the only entry of a list."""
    alone = providers if isinstance(providers, str) or not providers or len(providers) > 1 else providers[0]
    return isinstance(alone, str) and alone.lower() == "auto"


class _Settings:
    """The checked options of a session; a fresh SessionOptions for every attempt."""

    def __init__(
        self,
        ort: ModuleType,
        threads: int | None,
        spinning: bool | None,
        optimization: str,
        deterministic: bool,
        log_severity: int,
        memory_pattern: bool = True,
    ) -> None:
        if optimization not in OPTIMIZATION:
            hint = nearest(optimization, OPTIMIZATION)
            known = ", ".join(OPTIMIZATION)
            raise OptionError(f"unknown optimization {optimization!r}{hint}; known: {known}")
        if threads is not None and threads < 1:
            raise OptionError(f"threads is {threads}; it must be at least 1, or None for the default")
        if log_severity not in range(5):
            raise OptionError(f"log_severity is {log_severity}; it must lie in 0..4")
        self.ort, self.threads, self.spinning = ort, threads, spinning
        self.optimization, self.deterministic, self.log_severity = optimization, deterministic, log_severity
        self.memory_pattern = memory_pattern
        self.cache: Cache | None = None

    def options(self, *, optimised: bool = False, folder: Path | None = None) -> object:
        """optimised: the graph comes out of the cache. folder: where to write the optimised graph."""
        options = self.ort.SessionOptions()
        level = OPTIMIZATION["disabled" if optimised else self.optimization]
        options.graph_optimization_level = getattr(self.ort.GraphOptimizationLevel, level)
        if not self.memory_pattern:
            options.enable_mem_pattern = False
        if folder is not None:
            options.optimized_model_filepath = str(folder / GRAPH)
            # Beside the graph, they are mapped into memory; in it, they would be parsed and copied.
            for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", "1024")):
                options.add_session_config_entry(
                    f"session.optimized_model_external_initializers_{key}", value
                )
        options.log_severity_level = self.log_severity
        options.use_deterministic_compute = self.deterministic
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.spinning is not None:
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        return options


Requested = list[tuple[str, dict[str, Option]]]


def _normalise(providers: str | Sequence[Provider] | None, deterministic: bool) -> Requested:
    entries: Sequence[Provider] = ["cpu"] if providers is None else providers
    if isinstance(entries, str):
        entries = [entries]
    if not entries:
        raise OptionError('providers is empty; name at least one, e.g. ["cpu"], or leave it out')
    requested: Requested = []
    for entry in entries:
        name, options = (entry, {}) if isinstance(entry, str) else entry
        if name.lower() == "auto":
            raise OptionError('"auto" chooses the provider itself and cannot stand in a list; give it alone')
        full = resolve(name)
        if any(full == other for other, _ in requested):
            raise OptionError(f"the execution provider {short_name(full)!r} is listed twice")
        fixed: dict[str, Option] = {}
        if full == NAMES["cuda"]:
            fixed = {"cudnn_conv_algo_search": "HEURISTIC"} | ({"use_tf32": 0} if deterministic else {})
        requested.append((full, fixed | dict(options)))
    return requested


def _check_compiled_in(ort: ModuleType, names: Sequence[str]) -> None:
    there = ort.get_available_providers()
    missing = [short_name(name) for name in names if name not in there]
    if missing:
        raise ProviderError(
            f"this onnxruntime was built without {', '.join(missing)}; it has: "
            f"{', '.join(short_name(name) for name in there)}. For CUDA and TensorRT install onnxplain[gpu]"
        )


def _source(model: bytes | str | os.PathLike[str]) -> bytes | str:
    if isinstance(model, bytes):
        return model
    path = os.fspath(model)
    if not os.path.isfile(path):
        raise ModelError(f"{path!r}: there is no such file")
    return path


def _open_best(source: bytes | str, settings: _Settings) -> InferenceSession:
    there = settings.ort.get_available_providers()
    for short in AUTO[:-1]:
        if NAMES[short] not in there:
            continue
        try:
            session = _open(source, _normalise(short, settings.deterministic), settings)
        except ProviderError as error:
            _LOG.warning("%s is compiled in but does not work here: %s", short, error)
            continue
        _LOG.info("auto: %s", short)
        return session
    _LOG.info("auto: cpu")
    return _open(source, [(NAMES["cpu"], {})], settings)


def _open(source: bytes | str, requested: Requested, settings: _Settings) -> InferenceSession:
    wanted = [name for name, _ in requested]
    if NAMES["cuda"] in wanted or NAMES["tensorrt"] in wanted:
        _preload_dlls(settings.ort)
    try:
        session = _load(source, requested, settings)
    except ExplainError:
        raise
    except Exception as error:
        raise _diagnose(error, source, wanted, settings) from error
    _trim()
    taken = session.get_providers()
    lost = [short_name(name) for name in wanted if name not in taken]
    if lost:
        raise ProviderError(
            f"asked for {', '.join(lost)}, but onnxruntime could not start it and took "
            f"{', '.join(short_name(name) for name in taken)}; check the driver and the libraries it needs "
            "(log_severity=2 shows why)"
        )
    session.disable_fallback()  # the same quiet change of provider exists at run time
    return session


CACHED = frozenset({NAMES["cpu"], NAMES["cuda"]})
"""Providers whose optimised graphs onnxruntime can write: the others compile nodes of their own."""


def _load(source: bytes | str, requested: Requested, settings: _Settings) -> InferenceSession:
    """From the cache where there is one. An entry that cannot be opened is dropped; where none can be made the
    session opens without, and the log says so."""

    def opened(model: bytes | str, options: object) -> InferenceSession:
        # enable_fallback: otherwise a provider that fails is dropped, with a line on stdout and no error.
        start: Callable[..., InferenceSession] = settings.ort.InferenceSession
        return apart(lambda: start(model, options, providers=requested, enable_fallback=0))

    store = settings.cache
    if store is None or settings.optimization == "disabled" or not {name for name, _ in requested} <= CACHED:
        return opened(source, settings.options())
    parts = {
        "onnxruntime": getattr(settings.ort, "__version__", ""),
        "providers": requested,
        "optimization": settings.optimization,
        "deterministic": settings.deterministic,
    }
    key = key_of(source, parts)
    graph = store.find(key)
    if graph is not None:
        try:
            return opened(str(graph), settings.options(optimised=True))
        except Exception as error:
            store.drop(key, str(error))
    try:
        return store.build(key, lambda folder: opened(source, settings.options(folder=folder)))
    except ExplainError:
        raise
    except Exception as error:
        session = opened(source, settings.options())  # a fault of the model is raised here
        _LOG.warning("onnxruntime could not write the optimised graph, the cache is not used: %s", error)
        return session


@functools.cache
def _c_library() -> ctypes.CDLL | None:
    """glibc, which keeps freed memory until it is told otherwise; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _trim() -> None:
    """Give the memory that opening a session needed in passing back to the system: 30 MB after EfficientNet-Lite0,
    145 MB after ResNet-50, 230 MB after VGG-16."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


_PRELOADED: set[int] = set()


def _preload_dlls(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from the nvidia wheels, once; onnxruntime prints what it does not find."""
    if id(ort) not in _PRELOADED and hasattr(ort, "preload_dlls"):
        _PRELOADED.add(id(ort))
        ort.preload_dlls()


def _diagnose(
    error: Exception, source: bytes | str, wanted: Sequence[str], settings: _Settings
) -> ModelError | ProviderError:
    """Is it the model or the provider? A model that opens on the CPU alone is not to blame."""
    where = "the model" if isinstance(source, bytes) else repr(source)
    others = [short_name(name) for name in wanted if name != NAMES["cpu"]]
    if others:
        try:
            apart(lambda: settings.ort.InferenceSession(source, settings.options(), providers=[NAMES["cpu"]]))
        except Exception:
            return ModelError(f"onnxruntime cannot load {where}, not even on the cpu: {error}")
        return ProviderError(f"{', '.join(others)} cannot run {where}, the cpu can: {error}")
    return ModelError(f"onnxruntime cannot load {where}: {error}")
