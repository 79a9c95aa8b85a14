"""The folder of `export web`: what is in it, when it is refused, and the server of `onnxplain ui`. No browser here."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import webbrowser
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxplain
from onnxplain import models
from onnxplain.runtime.cli import ui
from onnxplain.runtime.export import web_runtime
from onnxplain.runtime.export.page_server import HEADERS, POLICY, serve_folder
from onnxplain.runtime.export.web import export_web
from onnxplain.runtime.export.web_files import Weights
from onnxplain.runtime.export.web_runtime import PAGE, WASM, WEBGPU, find_runtime, locked_version
from tests.runtime.cli.conftest import Cli, cli
from tests.runtime.small import product

__all__ = ["cli"]  # a fixture of the command line's own tests


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """In place of onnxruntime-web's folder: the export copies files and does not run them."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in (*WASM, *WEBGPU):
        (folder / name).write_text(name)
    (folder.parent / "package.json").write_text(json.dumps({"version": "1.2.3"}))
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_the_folder_is_whole(tmp_path: Path, runtime: Path) -> None:
    made = export_web(
        [models.path("mnist_lenet")], tmp_path / "site", methods=["saliency", "grad-cam"], runtime=runtime
    )
    assert made.titles == (
        "LeNet trained on MNIST digits: saliency",
        "LeNet trained on MNIST digits: grad-cam",
    )
    assert {
        "index.html",
        "app.js",
        "worker.js",
        "style.css",
        "vendor/LICENSE",
        "models/LICENSES.md",
        "vendor/ThirdPartyNotices.txt",
    } <= set(made.bytes)
    assert {f"vendor/{name}" for name in WASM} <= set(made.bytes) and f"vendor/{WEBGPU[0]}" not in made.bytes
    assert not any("node_modules" in name or "package" in name for name in made.bytes)
    told = manifest(made.folder)
    assert told["runtime"] == {"name": "onnxruntime-web", "version": "1.2.3", "webgpu": False}
    (model,) = told["models"]
    assert [entry["method"] for entry in model["methods"]] == ["saliency", "grad-cam"]
    assert model["preprocessing"]["color"] == "GRAY" and model["labels"] == [str(i) for i in range(10)]
    for entry in (model["forward"], model["weights"], *model["methods"]):
        assert made.bytes[entry["file"]] == entry["bytes"]


def test_weights_are_shared_and_the_graphs_still_run(tmp_path: Path, runtime: Path) -> None:
    made = export_web(
        [models.path("mnist_lenet")], tmp_path / "site", methods=["saliency", "lrp.z-plus"], runtime=runtime
    )
    (model,) = manifest(made.folder)["models"]
    stored = models.path("mnist_lenet").stat().st_size
    assert made.bytes[model["weights"]["file"]] < 1.05 * stored
    digits, _ = models.digits()
    x = digits[:1, None].astype(np.float32) / 255
    name = model["input"]["name"]
    forward = onnxruntime.InferenceSession(made.folder / model["forward"]["file"]).run(None, {name: x})
    for entry in model["methods"]:
        wanted = onnxplain.compile(models.path("mnist_lenet"), entry["method"], lowering="web")(x, target=3)
        session = onnxruntime.InferenceSession(made.folder / entry["file"])
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(names, {name: x, "target": np.array([[3]])}), strict=True))
        np.testing.assert_array_equal(found["attribution"], wanted.attribution)
        np.testing.assert_array_equal(found[model["output"]["name"]], forward[0])


def test_equal_tensors_are_stored_once() -> None:
    proto = onnx.ModelProto()
    values = np.arange(600, dtype=np.float32)
    for name, value in {"a": values, "b": values, "c": values + 1, "light": values[:4]}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    weights = Weights("w")
    first, second = weights.detach(proto), weights.detach(proto)
    assert len(weights.data) == 2 * 2400 + (-2400 % 64)
    places = [{e.key: e.value for e in t.external_data} for t in first.graph.initializer]
    assert places[0] == places[1] == {"location": "w", "offset": "0", "length": "2400"}
    assert places[2]["offset"] == "2432" and places[3] == {}
    assert second == first and proto.graph.initializer[0].raw_data  # the model that was given stays as it is


def test_the_forward_part_has_nothing_of_the_explanation(tmp_path: Path, runtime: Path) -> None:
    made = export_web(
        [models.path("mnist_lenet")], tmp_path / "site", methods=["guided-backprop"], runtime=runtime
    )
    (model,) = manifest(made.folder)["models"]
    part, whole = (onnx.load(made.folder / entry["file"]) for entry in (model["forward"], *model["methods"]))
    source = onnx.load(models.path("mnist_lenet"))
    assert [value.name for value in part.graph.input] == [value.name for value in source.graph.input]
    assert len(part.graph.node) <= len(source.graph.node) < len(whole.graph.node)


def test_what_a_probe_needs_of_a_picture_is_a_graph_of_its_own(tmp_path: Path, runtime: Path) -> None:
    made = export_web([models.path("esrgan_slim_x4")], tmp_path / "site", runtime=runtime)
    (model,) = manifest(made.folder)["models"]
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    wanted = onnxplain.Interpreter(models.path("esrgan_slim_x4"), x, head="prob")
    probes = {"rows": ("cotangent", (1, 3, 32, 32)), "columns": ("tangent", (1, 3, 8, 8))}
    for entry in model["methods"]:
        assert made.bytes[entry["state"]["file"]] == entry["state"]["bytes"]
        state, probe = (
            onnxruntime.InferenceSession(made.folder / file)
            for file in (entry["state"]["file"], entry["file"])
        )
        kept = dict(
            zip(
                [v.name for v in state.get_outputs()],
                state.run(None, {model["input"]["name"]: x}),
                strict=True,
            )
        )
        name, shape = probes[entry["kind"]]
        one = np.zeros(shape, np.float32)
        one[0, 1, 5, 4] = 1
        feeds = {**kept, model["input"]["name"]: x, name: one}
        found = np.asarray(
            probe.run(None, {value.name: feeds[value.name] for value in probe.get_inputs()})[0]
        )
        asked = wanted.rows if name == "cotangent" else wanted.columns
        np.testing.assert_allclose(found, asked([(1, 5, 4)]), rtol=0, atol=1e-5 * float(np.abs(found).max()))


def test_files_of_one_source_share_a_model(tmp_path: Path, runtime: Path) -> None:
    for name in ("saliency", "deconvnet"):
        onnxplain.compile(models.path("mnist_lenet"), name).save(tmp_path / f"{name}.onnx")
    made = export_web(
        [tmp_path / "saliency.onnx", tmp_path / "deconvnet.onnx"], tmp_path / "site", runtime=runtime
    )
    (model,) = manifest(made.folder)["models"]
    assert [entry["kind"] for entry in model["methods"]] == ["map", "map"]


def test_what_a_model_gives_decides_the_default(tmp_path: Path, runtime: Path) -> None:
    files = [models.path("mnist_lenet"), models.path("esrgan_slim_x4")]
    told = manifest(export_web(files, tmp_path / "site", runtime=runtime).folder)
    assert [[entry["kind"] for entry in model["methods"]] for model in told["models"]] == [
        ["map"],
        ["rows", "columns"],
    ]
    assert told["models"][1]["output"]["range"] == {"low": 0.0, "high": 255.0}
    assert told["models"][1]["preprocessing"]["size"] is None


def test_an_export_is_replaced_and_nothing_else_is(tmp_path: Path, runtime: Path) -> None:
    place = tmp_path / "site"
    export_web([models.path("mnist_lenet")], place, methods=["saliency"], runtime=runtime, samples=True)
    assert (place / "photos" / "LICENSES.md").is_file() and manifest(place)["photos"]
    again = export_web(
        [models.path("mnist_lenet")], place, methods=["deconvnet"], runtime=runtime, webgpu=True
    )
    assert not (place / "photos").exists() and f"vendor/{WEBGPU[0]}" in again.bytes
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(onnxplain.OptionError, match="holds other files"):
        export_web([models.path("mnist_lenet")], tmp_path / "mine", runtime=runtime)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "package", "site"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path, runtime: Path) -> None:
    place = tmp_path / "site"
    export_web([models.path("mnist_lenet")], place, runtime=runtime)
    before = (place / "manifest.json").read_bytes()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(onnxplain.ModelError):
        export_web([tmp_path / "broken.onnx"], place, runtime=runtime)
    assert (place / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.onnx", "package", "site"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("integrated-gradients", {"baseline": "input"}, "takes baseline"),
        ("saliency", {"target": [1, 2]}, "several classes"),
        ("linearscope.contributions", {}, "no map"),
    ],
)
def test_files_that_ask_for_more_than_a_picture_and_a_class(
    method: str, options: dict[str, Any], words: str, tmp_path: Path, runtime: Path
) -> None:
    onnxplain.compile(models.path("mnist_lenet"), method, **options).save(tmp_path / "file.onnx")
    with pytest.raises(onnxplain.OptionError, match=words):
        export_web([tmp_path / "file.onnx"], tmp_path / "site", runtime=runtime)


def test_models_that_take_no_single_picture(tmp_path: Path, runtime: Path) -> None:
    onnx.save(product(), tmp_path / "two.onnx")
    with pytest.raises(onnxplain.ModelError, match="picture"):
        export_web([tmp_path / "two.onnx"], tmp_path / "site", runtime=runtime)


def test_methods_with_nothing_to_compile(tmp_path: Path, runtime: Path) -> None:
    onnxplain.compile(models.path("mnist_lenet"), "saliency").save(tmp_path / "file.onnx")
    with pytest.raises(onnxplain.OptionError, match="leave it out"):
        export_web([tmp_path / "file.onnx"], tmp_path / "site", methods=["deconvnet"], runtime=runtime)
    with pytest.raises(onnxplain.OptionError, match="at least one"):
        export_web([], tmp_path / "site", runtime=runtime)


def test_a_runtime_folder_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(onnxplain.OptionError, match=r"has no ort\.wasm\.min\.mjs.*dist"):
        find_runtime(tmp_path)


def without_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that npm has not been run for, and an empty cache."""
    page = tmp_path / "page"
    page.mkdir()
    for name in ("package.json", "package-lock.json"):
        (page / name).write_bytes((PAGE / name).read_bytes())
    monkeypatch.setattr(web_runtime, "PAGE", page)
    monkeypatch.setenv(web_runtime.VARIABLE, str(tmp_path / "cache"))


def test_npm_is_asked_once_and_only_with_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for npm that lays the package down: the cache keeps it, and no second call is made."""
    without_packages(tmp_path, monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    calls = []

    def npm(command: list[str], cwd: Path, **rest: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        assert (cwd / "package-lock.json").is_file()
        dist = cwd / "node_modules" / "onnxruntime-web" / "dist"
        dist.mkdir(parents=True)
        for name in WASM:
            (dist / name).write_text("")
        (dist.parent / "package.json").write_text(json.dumps({"version": locked_version()}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", npm)
    assert find_runtime().version == locked_version() == find_runtime().version
    assert len(calls) == 1 and calls[0][1:4] == ["ci", "--omit=dev", "--ignore-scripts"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"onnxruntime-web-{locked_version()}"]


def test_without_npm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(tmp_path, monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(onnxplain.OptionError, match=r"npm is missing: install Node\.js, or give --runtime"):
        find_runtime()
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_command(cli: Cli, runtime: Path) -> None:
    ran = cli.works(
        "export",
        "web",
        models.path("mnist_lenet"),
        "-m",
        "saliency,deconvnet",
        "-o",
        "site",
        "--runtime",
        runtime,
    )
    assert ran.out.splitlines()[0].startswith("site: ") and "deconvnet" in ran.out
    assert "no method 'nonsense'" in cli.refuses(
        "export", "web", models.path("mnist_lenet"), "-m", "nonsense", "-o", "other", "--runtime", runtime
    )


def test_the_ui_serves_a_folder_that_is_gone_afterwards(
    cli: Cli, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def serve(folder: Path, port: int) -> ThreadingHTTPServer:
        assert (folder / "manifest.json").is_file() and port == 0
        seen.append(folder)
        return serve_folder(folder, port)

    def stopped(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "serve_folder", serve)
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", stopped)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("a browser was opened without --open"))
    ran = cli.works("ui", models.path("mnist_lenet"), "--runtime", runtime)
    assert ran.out.startswith("http://127.0.0.1:") and ran.out.endswith("stopped\n")
    assert len(seen) == 1 and not seen[0].exists()


def asked(port: int, path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
        reply = connection.getresponse()
        return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def test_the_server_shows_one_folder_to_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    (folder / "models").mkdir(parents=True)
    for name in ("index.html", "a.mjs", "a.wasm", "a.js", "models/a.weights"):
        (folder / name).write_text("x")
    (tmp_path / "secret.txt").write_text("secret")
    with serve_folder(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert server.server_address[0] == "127.0.0.1"
            port = server.server_port
            kinds = {
                name: asked(port, f"/{name}")[1]["content-type"].split(";")[0]
                for name in ("", "a.mjs", "a.wasm", "a.js", "models/a.weights")
            }
            status, headers, _ = asked(port, "/index.html")
            assert (
                status == 200
                and {key.lower(): value for key, value in HEADERS.items()}.items() <= headers.items()
            )
            assert kinds == {
                "": "text/html",
                "a.mjs": "text/javascript",
                "a.wasm": "application/wasm",
                "a.js": "text/javascript",
                "models/a.weights": "application/octet-stream",
            }
            assert asked(port, "/../secret.txt")[0] == asked(port, "/%2e%2e/secret.txt")[0] == 404
            assert asked(port, "/models/")[0] == 404
            assert asked(port, "/index.html", host="evil.example")[0] == 403
            assert asked(port, "/index.html", host=f"localhost:{port}")[0] == 200
            with pytest.raises(onnxplain.OptionError, match="cannot listen"):
                serve_folder(folder, port)
        finally:
            server.shutdown()


def test_the_policies_allow_no_foreign_code() -> None:
    """The page states its own, for servers that send none; the two must not drift apart."""
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    stated = page.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert f"{stated}; frame-ancestors 'none'" == POLICY
    assert "unsafe-inline" not in POLICY and "'unsafe-eval'" not in POLICY and "http" not in POLICY
    assert "<script>" not in page and "style=" not in page and " onclick=" not in page
