"""Providers: names, loud failure, and what reaches onnxruntime."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxplain.rewriter.errors import ModelError, OptionError, ProviderError
from onnxplain.runtime import loading, providers
from onnxplain.runtime.loading import load_onnxruntime
from onnxplain.runtime.providers import (
    NAMES,
    compiled_in,
    create_session,
    resolve,
    short_name,
)

CUDA, CPU, DML = NAMES["cuda"], NAMES["cpu"], NAMES["directml"]
WITHOUT_CUDA = CUDA not in onnxruntime.get_available_providers()


def relu_model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
    )
    return cast(
        bytes,
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        ).SerializeToString(),
    )


class Options:
    """Records what a SessionOptions would be told."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.intra_op_num_threads = 0
        self.use_deterministic_compute = False
        self.log_severity_level = 2
        self.graph_optimization_level = ""

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class FakeRuntime(ModuleType):
    """An onnxruntime with providers of our choice, some of which fail the way the real one does: quietly."""

    def __init__(
        self, compiled: Sequence[str], broken: Sequence[str] = (), raising: Sequence[str] = ()
    ) -> None:
        super().__init__("onnxruntime")
        self.calls: list[tuple[list[tuple[str, dict[str, object]]], Options, int]] = []
        self.preloads = 0
        runtime = self

        class InferenceSession:
            def __init__(
                self, model: object, options: Options, providers: list[object], enable_fallback: int = 1
            ) -> None:
                pairs = [entry if isinstance(entry, tuple) else (str(entry), {}) for entry in providers]
                runtime.calls.append((pairs, options, enable_fallback))
                if any(name in raising for name, _ in pairs) or model == b"bad":
                    raise RuntimeError("EP failed")
                self.fallback = True
                self.taken = [name for name, _ in pairs if name not in broken and name != CPU] + [CPU]

            def get_providers(self) -> list[str]:
                return self.taken

            def disable_fallback(self) -> None:
                self.fallback = False

        class GraphOptimizationLevel:
            ORT_ENABLE_ALL, ORT_ENABLE_EXTENDED, ORT_ENABLE_BASIC, ORT_DISABLE_ALL = (
                "all",
                "ext",
                "basic",
                "off",
            )

        self.InferenceSession = InferenceSession
        self.GraphOptimizationLevel = GraphOptimizationLevel
        self.SessionOptions = Options
        self.get_available_providers = lambda: [*compiled]

        def preload_dlls() -> None:
            self.preloads += 1

        self.preload_dlls = preload_dlls


Install = Callable[[FakeRuntime], FakeRuntime]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(runtime: FakeRuntime) -> FakeRuntime:
        monkeypatch.setattr(providers, "load_onnxruntime", lambda: runtime)
        return runtime

    return put


@pytest.fixture
def fresh_import() -> Iterator[None]:
    load_onnxruntime.cache_clear()
    yield
    load_onnxruntime.cache_clear()


@pytest.mark.parametrize("name", ["cuda", "CUDA", "Cuda", "CUDAExecutionProvider", "cudaexecutionprovider"])
def test_names_in_any_case(name: str) -> None:
    assert resolve(name) == "CUDAExecutionProvider"


def test_names_go_there_and_back() -> None:
    assert len(set(NAMES.values())) == len(NAMES)
    for short, full in NAMES.items():
        assert resolve(short) == full and short_name(full) == short
    assert short_name("FutureExecutionProvider") == "FutureExecutionProvider"


def test_full_names_are_those_of_onnxruntime() -> None:
    """But for the providers that have left it: their names stay, for the builds and plug-ins that have them."""
    left = {NAMES[name] for name in ("rocm", "tensorrt-rtx", "acl")}
    assert set(NAMES.values()) - left <= set(onnxruntime.get_all_providers())


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="did you mean 'tensorrt'"):
        resolve("tensort")


def test_the_real_cpu_from_bytes_and_path(tmp_path: Path) -> None:
    onnx.save(onnx.load_from_string(relu_model()), tmp_path / "m.onnx")
    for model in (relu_model(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        session = create_session(
            model, threads=1, spinning=False, optimization="disabled", deterministic=True
        )
        (y,) = session.run(None, {"x": np.array([[-1.0, 2.0]], np.float32)})
        assert np.asarray(y).tolist() == [[0.0, 2.0]] and session.get_providers() == [CPU]


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize(
    "request_", ["cuda", ["cuda", "cpu"], ["cpu", ("CUDAExecutionProvider", {"device_id": 0})]]
)
def test_really_asking_for_cuda_without_it(request_: str | list[providers.Provider]) -> None:
    with pytest.raises(ProviderError, match=r"built without cuda; it has: .*cpu.*onnxplain\[gpu\]"):
        create_session(relu_model(), request_)


def test_auto_really_opens_a_session() -> None:
    session = create_session(relu_model(), "auto")
    assert session.get_providers()[-1] == CPU
    assert "cpu" in compiled_in()


def test_a_bad_model_is_the_models_fault(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the model"):
        create_session(b"no model")
    with pytest.raises(ModelError, match=r"none\.onnx.*no such file"):
        create_session(tmp_path / "none.onnx")


def test_a_provider_that_was_dropped_is_an_error(install: Install) -> None:
    install(FakeRuntime([CUDA, CPU], broken=[CUDA]))
    for request_ in ("cuda", ["cuda"], ["cuda", "cpu"]):
        with pytest.raises(
            ProviderError, match="asked for cuda, but onnxruntime could not start it and took cpu"
        ):
            create_session(b"m", request_)


def test_a_provider_that_raises_is_told_from_a_bad_model(install: Install) -> None:
    install(FakeRuntime([DML, CPU], raising=[DML]))
    with pytest.raises(ProviderError, match="directml cannot run the model, the cpu can: EP failed"):
        create_session(b"m", "directml")
    with pytest.raises(ModelError, match="not even on the cpu"):
        create_session(b"bad", "directml")


def test_a_provider_that_works_is_taken_without_any_fallback(install: Install) -> None:
    runtime = install(FakeRuntime([CUDA, CPU]))
    session = create_session(b"m", ["cuda", "cpu"])
    assert session.get_providers() == [CUDA, CPU]
    assert not vars(session)["fallback"] and runtime.calls[0][2] == 0
    assert runtime.preloads == 1
    create_session(b"m", "cuda")
    assert runtime.preloads == 1


def test_the_cpu_needs_no_cuda_libraries(install: Install) -> None:
    runtime = install(FakeRuntime([CUDA, CPU]))
    create_session(b"m")
    assert runtime.preloads == 0 and runtime.calls[0][0] == [(CPU, {})]


def test_auto_takes_the_first_that_works_and_says_so(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(FakeRuntime([NAMES["tensorrt"], CUDA, DML, CPU], broken=[CUDA]))
    with caplog.at_level(logging.INFO, logger=providers.__name__):
        session = create_session(b"m", "Auto")
    assert session.get_providers() == [DML, CPU]
    assert "cuda is compiled in but does not work here" in caplog.text and "auto: directml" in caplog.text


def test_auto_ends_at_the_cpu_and_does_not_hide_a_bad_model(install: Install) -> None:
    install(FakeRuntime([CUDA, CPU], raising=[CUDA]))
    assert create_session(b"m", "auto").get_providers() == [CPU]
    with pytest.raises(ModelError):
        create_session(b"bad", "auto")


def test_options_reach_the_provider(install: Install) -> None:
    runtime = install(FakeRuntime([CUDA, CPU]))
    create_session(b"m", [("cuda", {"device_id": 1})])
    create_session(b"m", [("cuda", {"use_tf32": 1})], deterministic=True)
    assert runtime.calls[0][0] == [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "device_id": 1})]
    assert runtime.calls[1][0] == [(CUDA, {"use_tf32": 1, "cudnn_conv_algo_search": "HEURISTIC"})]
    create_session(b"m", [("cuda", {"cudnn_conv_algo_search": "EXHAUSTIVE"})])
    assert runtime.calls[2][0] == [(CUDA, {"cudnn_conv_algo_search": "EXHAUSTIVE"})]
    create_session(b"m", "cuda", deterministic=True)
    assert runtime.calls[3][0] == [(CUDA, {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"})]


def test_the_memory_pattern_changes_no_result() -> None:
    x = {"x": np.array([[-1.0, 2.0]], np.float32)}
    plain, lean = (create_session(relu_model(), memory_pattern=on) for on in (True, False))
    assert plain.get_session_options().enable_mem_pattern
    assert not lean.get_session_options().enable_mem_pattern
    assert np.array_equal(np.asarray(plain.run(None, x)[0]), np.asarray(lean.run(None, x)[0]))


def test_settings_reach_the_session(install: Install) -> None:
    runtime = install(FakeRuntime([CPU]))
    create_session(b"m")
    create_session(
        b"m", threads=2, spinning=False, optimization="disabled", deterministic=True, log_severity=4
    )
    plain, set_ = (options for _, options, _ in runtime.calls)
    assert plain.entries == {"session.set_denormal_as_zero": "1"} and plain.intra_op_num_threads == 0
    assert plain.graph_optimization_level == "all" and not plain.use_deterministic_compute
    assert set_.entries["session.intra_op.allow_spinning"] == "0" and set_.intra_op_num_threads == 2
    assert set_.graph_optimization_level == "off" and set_.use_deterministic_compute
    assert set_.log_severity_level == 4


def test_values_out_of_range() -> None:
    with pytest.raises(OptionError, match="threads is 0"):
        create_session(b"m", threads=0)
    with pytest.raises(OptionError, match="did you mean 'disabled'"):
        create_session(b"m", optimization="disable")
    with pytest.raises(OptionError, match="log_severity is 5"):
        create_session(b"m", log_severity=5)
    with pytest.raises(OptionError, match="providers is empty"):
        create_session(b"m", [])
    with pytest.raises(OptionError, match="'cpu' is listed twice"):
        create_session(b"m", ["cpu", "CPUExecutionProvider"])
    with pytest.raises(OptionError, match='"auto" chooses'):
        create_session(b"m", ["auto", "cpu"])


@pytest.mark.usefixtures("fresh_import")
def test_without_onnxruntime_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(loading, "import_module", missing)
    with pytest.raises(ProviderError, match=r"onnxplain\[cpu\] and onnxplain\[gpu\]"):
        create_session(b"m")


@pytest.mark.usefixtures("fresh_import")
def test_a_gutted_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is left after one of two overlapping wheels was uninstalled: a folder, and nothing in it.
    monkeypatch.setattr(loading, "import_module", lambda name: ModuleType(name))
    with pytest.raises(ProviderError, match="broken"):
        load_onnxruntime()


@pytest.mark.usefixtures("fresh_import")
def test_two_wheels_at_once_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in ("onnxruntime", "onnxruntime-gpu"):
            raise PackageNotFoundError(name)
        return "1.23.0"

    monkeypatch.setattr(loading, "version", version)
    with pytest.warns(RuntimeWarning, match="onnxruntime and onnxruntime-gpu are installed together"):
        load_onnxruntime()
    load_onnxruntime()  # a second warning would be an error here


@pytest.mark.parametrize("wish", [None, "0"])
def test_onnxruntime_tells_nobody_unless_it_is_asked_to(tmp_path: Path, wish: str | None) -> None:
    """In a process of its own: the variable is read while onnxruntime is imported. An identifier on disk is the first
    thing that its telemetry makes."""
    code = (
        "import os, onnxplain; from onnxplain import models; import numpy as np;"
        "onnxplain.compile(models.path('mnist_lenet'), 'saliency')(np.zeros((1, 1, 28, 28), np.float32));"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CI": "" if wish is None else "true"}
    environment |= {} if wish is None else {"ORT_DISABLE_TELEMETRY": wish}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.strip() == (wish or "1")
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)]
