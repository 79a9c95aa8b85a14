"""Bad input and usage: one line on stderr, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import onnx
import onnxruntime
import pytest

from onnxplain import models
from tests.runtime.cli.conftest import Cli

LENET, PHOTO = models.path("mnist_lenet"), models.photo("cat_chelsea")
COMMANDS = ("compile", "explain", "check", "show", "methods", "demo", "fit", "verify")


def words_for(command: str, model: object) -> list[object]:
    return [command, model, *([PHOTO] if command == "explain" else [])]


@pytest.mark.parametrize("command", ["compile", "explain", "check", "show"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LENET.read_bytes()[:3000], "is not an ONNX model (or is cut off)"),
        (b"this is a letter and no model\n", "not an ONNX model"),
        (b"\x00\xff" * 500, "not an ONNX model"),
        (b"", "not an ONNX model"),
        (None, "no model file at 'model.onnx'"),
    ],
    ids=["cut", "text", "noise", "empty", "missing"],
)
def test_a_file_that_is_no_model(cli: Cli, command: str, data: bytes | None, message: str) -> None:
    if data is not None:
        Path("model.onnx").write_bytes(data)
    line = cli.refuses(*words_for(command, "model.onnx"))
    assert message in line


@pytest.mark.parametrize("command", ["compile", "explain", "check", "show"])
def test_a_folder_as_the_model(cli: Cli, command: str) -> None:
    assert "no model file at '.'" in cli.refuses(*words_for(command, "."))


def test_damaged_bytes_in_the_middle_never_give_a_traceback(cli: Cli) -> None:
    """Eleven places of the light part of the file, each overwritten with 8 bytes of 0xff."""
    model = onnx.load(LENET)
    for tensor in model.graph.initializer:
        tensor.raw_data = tensor.raw_data[:0]
    whole = model.SerializeToString()
    for place in range(0, len(whole) - 8, len(whole) // 11):
        Path("model.onnx").write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        cli.refuses("compile", "model.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a picture", "cannot be read as a picture"),
        (PHOTO.read_bytes()[:9000], "cannot be read as a picture: image file is truncated"),
        (b"", "cannot be read as a picture"),
        (None, "'a.jpg': there is no such file"),
    ],
    ids=["text", "truncated", "empty", "missing"],
)
def test_a_wrong_picture(cli: Cli, data: bytes | None, message: str) -> None:
    if data is not None:
        Path("a.jpg").write_bytes(data)
    assert message in cli.refuses("explain", LENET, PHOTO, "a.jpg")


def test_a_folder_as_the_picture(cli: Cli) -> None:
    assert "'.' is a folder" in cli.refuses("explain", LENET, ".")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("10", "class 10 is out of range: 0 to 9"),
        ("-2", "class -2 is out of range"),
        ("seventeen", "no class is called 'seventeen'"),
        ("--3", "no class is called '--3'"),
        ("²", "no class is called '²'"),
        ("1,2", "no class is called '1,2'"),
        ("", "no class is called ''"),
    ],
)
def test_explain_without_such_a_class(cli: Cli, target: str, message: str) -> None:
    assert message in cli.refuses("explain", LENET, PHOTO, "--target", target)


def test_a_misspelt_class_name(cli: Cli) -> None:
    line = cli.refuses("explain", models.path("efficientnet_lite0"), PHOTO, "--target", "goldfsh")
    assert "no class is called 'goldfsh' (did you mean 'goldfish'?)" in line


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("10", "class 10 is out of range: 'logits' has 10 elements"),
        ("1,-2", "class -2 is out of range"),
        ("imput", "unknown target 'imput' (did you mean 'input'?)"),
        ("1,two", "unknown target '1,two'"),
        ("", "0 targets"),
        (",".join("1" * 65), "65 targets"),
    ],
)
def test_compile_for_a_wrong_target(cli: Cli, target: str, message: str) -> None:
    assert message in cli.refuses("compile", LENET, "--target", target)


WRITERS = [["compile", LENET], ["explain", LENET, PHOTO]]


@pytest.mark.parametrize("words", WRITERS, ids=["compile", "explain"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/a.png", "existing, writable folder"),
        ("folder.png", "give another name"),
        ("file/a.png", "cannot write"),
    ],
    ids=["no folder", "a folder as the file", "a file as the folder"],
)
def test_a_place_that_cannot_be_written(cli: Cli, words: list[object], out: str, message: str) -> None:
    Path("folder.png").mkdir()
    Path("file").touch()
    line = cli.refuses(*words, "-o", out)
    assert repr(out) in line and message in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("words", WRITERS, ids=["compile", "explain"])
def test_a_read_only_folder(cli: Cli, words: list[object]) -> None:
    folder = Path("locked")
    folder.mkdir()
    folder.chmod(0o555)
    assert "choose an existing, writable folder" in cli.refuses(*words, "-o", "locked/a.png")


@pytest.mark.parametrize("words", WRITERS, ids=["compile", "explain"])
def test_a_disk_that_is_full_at_the_rename(
    cli: Cli, words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("a.png").write_bytes(b"old")
    monkeypatch.setattr("onnxplain.runtime.atomic.os.replace", full)
    assert "cannot write 'a.png': No space left on device" in cli.refuses(*words, "-o", "a.png")
    assert Path("a.png").read_bytes() == b"old"


def test_the_model_is_never_overwritten(cli: Cli) -> None:
    data = LENET.read_bytes()
    Path("net.onnx").write_bytes(data)
    Path("link.onnx").symlink_to("net.onnx")
    for out in ("net.onnx", "./net.onnx", "link.onnx"):
        assert "is the model itself" in cli.refuses("compile", "net.onnx", "-o", out)
    assert Path("net.onnx").read_bytes() == data


def test_demo_over_a_file(cli: Cli) -> None:
    Path("taken").touch()
    assert "cannot make the folder 'taken'" in cli.refuses("demo", "-o", "taken")


@pytest.mark.parametrize("out", ["a.onnx", "a", "a.tiff", ".png", ""])
def test_a_panel_of_a_wrong_suffix(cli: Cli, out: str) -> None:
    line = cli.refuses("explain", LENET, PHOTO, "-o", out)
    assert "no picture format" in line and ".webp" in line


METHOD = "no method 'gided-backprop' (did you mean 'guided-backprop'?)"


@pytest.mark.parametrize("words", [["compile", LENET], ["check", LENET]], ids=["compile", "check"])
def test_an_unknown_method(cli: Cli, words: list[object]) -> None:
    assert METHOD in cli.refuses(*words, "-m", "gided-backprop")


def test_an_unknown_method_among_several(cli: Cli) -> None:
    assert METHOD in cli.refuses("explain", LENET, PHOTO, "-m", "saliency,gided-backprop")
    assert "give at least one picture and one method" in cli.refuses("explain", LENET, PHOTO, "-m", ",")


@pytest.mark.parametrize("command", ["compile", "check", "explain"])
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("gat=relu", "guided-backprop has no option 'gat' (did you mean 'gate'?); it has gate, lrn"),
        ("gate=foo", "gate='foo' is not one of 'relu', 'rectifiers', 'activations'"),
        ("gate=1", "gate=1 is not one of"),
        ("gate=[1]", "gate=[1] is not one of"),
        ("gate", "--set 'gate': write it as key=value"),
        ("=relu", "--set '=relu': write it as key=value"),
        ("target=3", "target is no option of a method"),
        ("model=3", "model is no option of a method"),
        ("progress=3", "progress is no option of a method"),
        ("max-bytes=3", "max_bytes is no option of a method"),
    ],
)
def test_a_bad_setting(cli: Cli, command: str, pair: str, message: str) -> None:
    line = cli.refuses(*words_for(command, LENET), "-m", "guided-backprop", "--set", pair)
    assert message in line


def test_a_setting_of_a_method_without_any(cli: Cli) -> None:
    assert "saliency has no option 'gate'; it has none" in cli.refuses("compile", LENET, "--set", "gate=relu")


@pytest.mark.parametrize("command", ["compile", "check", "explain"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("image", "--shape 'image': write it as name=N,3,224,224"),
        ("=1,2", "write it as name=N,3,224,224"),
        ("imag=1,1,28,28", "the model has no input 'imag'"),
        ("image=1,28", "does not fit the declared ['N', 1, 28, 28]"),
        ("image=N,3,28,28", "does not fit the declared ['N', 1, 28, 28]"),
        ("image=", "'' is neither a size of at least 1 nor a name"),
        ("image=-1,1,28,28", "'-1' is neither a size"),
        ("image=0,1,28,28", "'0' is neither a size"),
        ("image=²,1,28,28", "'²' is neither a size"),
        ("image=1.5,1,28,28", "'1.5' is neither a size"),
    ],
)
def test_a_bad_shape(cli: Cli, command: str, shape: str, message: str) -> None:
    assert message in cli.refuses(*words_for(command, LENET), "--shape", shape)


@pytest.mark.parametrize("command", ["compile", "explain"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no preset and no readable file 'record.json'; presets: raw, unit"),
        ("{", "'record.json' is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"preprocessing": 3}', "is int and no JSON object"),
        ("{}", "the key 'layout' is missing"),
        ('{"layuot": "NCHW"}', "unknown key 'layuot' (did you mean 'layout'?)"),
        ("[" * 100_000, "'record.json' is not JSON"),
    ],
    ids=["missing", "cut", "list", "number inside", "empty", "misspelt", "deep"],
)
def test_a_bad_preprocessing(cli: Cli, command: str, text: str | None, message: str) -> None:
    if text is not None:
        Path("record.json").write_text(text)
    assert message in cli.refuses(*words_for(command, LENET), "--preprocess", "record.json")


def test_preprocessing_for_another_input(cli: Cli) -> None:
    record = (
        '{"layout": "NCHW", "color": "RGB", "size": null, "resize": "none", "mean": [0,0,0], "std": [1,1,1]}'
    )
    Path("record.json").write_text(record)
    line = cli.refuses("explain", LENET, PHOTO, "--preprocess", "record.json")
    assert "input 'image' takes [N, 1, 28, 28], not [1, 3, " in line


@pytest.mark.parametrize("labels", ["missing.txt", ".", PHOTO])
def test_labels_that_cannot_be_read(cli: Cli, labels: object) -> None:
    assert "cannot read the labels" in cli.refuses("explain", LENET, PHOTO, "--labels", labels)


def test_an_unknown_provider(cli: Cli) -> None:
    line = cli.refuses("explain", LENET, PHOTO, "--provider", "cdua")
    assert "unknown execution provider 'cdua' (did you mean 'cuda'?)" in line


@pytest.mark.skipif(
    "MIGraphXExecutionProvider" in onnxruntime.get_available_providers(), reason="it is compiled in here"
)
def test_a_provider_that_is_not_compiled_in(cli: Cli) -> None:
    line = cli.refuses("explain", LENET, PHOTO, "--provider", "migraphx", "--provider", "cpu")
    assert "this onnxruntime was built without migraphx; it has: " in line


def test_nodes_without_a_rule_are_all_listed(cli: Cli, determinants: Path) -> None:
    line = cli.refuses("compile", determinants)
    assert "2 nodes have no usable rule: Det at 'first_det'" in line and "Det at 'second_det'" in line
    assert "onnxplain check" in line


def test_explain_a_model_without_a_picture(cli: Cli, determinants: Path) -> None:
    assert "the model's input is not a picture" in cli.refuses("explain", determinants, PHOTO)


@pytest.mark.parametrize(
    ("reduce", "message"),
    [
        ("maxab", "did you mean 'maxabs'?"),
        ("jet", "start with one of"),
        ("maxabs,sum", "only one of"),
        ("", "start"),
    ],
)
def test_a_bad_readout(cli: Cli, reduce: str, message: str) -> None:
    assert message in cli.refuses("compile", LENET, "--reduce", reduce)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--head", "head: no tensor 'logit'"),
        ("--output", "no output 'logit' (did you mean 'logits'?)"),
        ("--input", "no floating-point input 'logit'; there is image"),
    ],
)
def test_a_name_the_model_lacks(cli: Cli, flag: str, message: str) -> None:
    assert message in cli.refuses("compile", LENET, flag, "logit")


def test_an_emitted_file_is_not_compiled_or_changed_again(cli: Cli) -> None:
    cli.works("compile", LENET, "-m", "guided-backprop", "-o", "a.onnx")
    assert "already has a tensor named" in cli.refuses("compile", "a.onnx")
    assert "explains by guided-backprop, not saliency" in cli.refuses(
        "explain", "a.onnx", PHOTO, "-m", "saliency"
    )
    for words in (
        ["--set", "gate=relu"],
        ["--output", "logits"],
        ["--head", "prob"],
        ["--shape", "image=1,1,28,28"],
    ):
        assert "is compiled already and cannot change " in cli.refuses("explain", "a.onnx", PHOTO, *words)


def test_an_emitted_file_for_one_class_cannot_explain_photos(cli: Cli) -> None:
    cli.works("compile", LENET, "--target", "3", "-o", "a.onnx")
    assert "compile it with target='input'" in cli.refuses("explain", "a.onnx", PHOTO)


@pytest.mark.parametrize("key", ["preprocessing", "labels"])
@pytest.mark.parametrize("text", ["{", "3", "[" * 100_000], ids=["cut", "number", "deep"])
def test_damaged_metadata(cli: Cli, key: str, text: str) -> None:
    model = onnx.load(LENET)
    entry = model.metadata_props.add()
    entry.key, entry.value = f"onnxplain.{key}", text
    onnx.save(model, "model.onnx")
    assert key in cli.refuses("explain", "model.onnx", PHOTO)


def test_show_json_of_a_plain_model(cli: Cli) -> None:
    assert "this file carries no explanation" in cli.refuses("show", LENET, "--json")
