"""Settings that come as words or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from PIL import Image

from onnxplain import models
from onnxplain.rewriter.errors import ImageError, ModelError, OptionError
from onnxplain.runtime.compiling import description
from onnxplain.runtime.images import prepare
from onnxplain.runtime.perturb.gaussian import Gaussian, save_gaussian
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.registry import TECHNIQUES
from onnxplain.runtime.perturb.technique import Technique, setting
from onnxplain.runtime.perturb.values import settled, shared_out
from onnxplain.runtime.preprocess import Preprocessing
from tests.runtime.perturb.slabs import SLABS
from tests.runtime.small import model_of, picture

LENET = models.path("mnist_lenet")
X = np.ones((1, 2, 3, 4), np.float32)


@dataclass(frozen=True)
class Many:
    count: int = setting(1, "a number")
    share: float = setting(0.5, "a number")
    flag: bool = setting(True, "yes or no")
    word: Literal["a", "b"] = setting("a", "a word")
    limit: int | None = setting(None, "a number, or none")
    colour: float | str | Sequence[float] = setting(0.0, "numbers, or a name")
    pair: tuple[int, int] | None = setting(None, "two numbers")
    sizes: tuple[float, ...] = setting((), "numbers")
    segments: str | npt.NDArray[np.int64] = setting("grid", "a name, or labels")  # noqa: RUF009
    images: npt.NDArray[np.float32] | None = setting(None, "pictures")  # noqa: RUF009


MANY = Technique("many", "Many", "these tests", Many, lambda prober, s: 1, SLABS.run)


def read(**given: Any) -> Any:
    return settled(MANY, given, Prober(picture(), X))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7),
        ("share", "7", 7.0),
        ("share", "1e-3", 1e-3),
        ("flag", "False", False),
        ("flag", "yes", True),
        ("word", "b", "b"),
        ("limit", "7", 7),
        ("limit", "None", None),
        ("colour", "0.5", 0.5),
        ("colour", "0.5, 1,0", (0.5, 1.0, 0.0)),
        ("colour", "blur:3", "blur:3"),
        ("pair", "3,4", (3, 4)),
        ("pair", "none", None),
        ("sizes", "3,4.5,1", (3.0, 4.5, 1.0)),
        ("segments", "slic", "slic"),
    ],
)
def test_words_are_read_by_the_type_of_the_field(name: str, text: str, value: object) -> None:
    found = getattr(read(**{name: text}), name)
    assert found == value and type(found) is type(value)


def test_values_that_are_no_text_pass() -> None:
    table = np.zeros((3, 4), np.int64)
    assert read(count=3, segments=table).segments is table


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "3.5", "many: count='3.5' is no whole number"),
        ("share", "half", "share='half' is no number"),
        ("flag", "2", "is no true or false"),
        ("word", "c", "is no a/b"),
        ("limit", "many", "is no none or whole number"),
        ("pair", "3,4,5", "is no none or numbers joined by commas"),
        ("sizes", "3,x", "is no numbers joined by commas"),
        ("conut", "3", "many has no setting 'conut' (did you mean 'count'?)"),
    ],
)
def test_words_that_do_not_fit(name: str, text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(**{name: text})
    assert message in str(caught.value)


def test_arrays_come_from_files(tmp_path: Path) -> None:
    labels = np.arange(12).reshape(3, 4)
    np.save(tmp_path / "labels.npy", labels)
    np.testing.assert_array_equal(read(segments=tmp_path / "labels.npy").segments, labels)
    np.testing.assert_array_equal(read(segments=str(tmp_path / "labels.npy")).segments, labels)
    np.save(tmp_path / "inputs.npy", np.repeat(X, 3, axis=0))
    assert read(images=tmp_path / "inputs.npy").images.shape == (3, 2, 3, 4)
    with pytest.raises(ImageError, match="there is no such file"):
        read(segments="nowhere.npy")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(ImageError, match="cannot be read as an array"):
        read(segments=tmp_path / "bad.npy")


def test_a_folder_of_photos_becomes_inputs_of_the_model(tmp_path: Path) -> None:
    digits, about = models.digits()[0], description(LENET, onnx.load(LENET))
    assert about is not None
    for i in range(3):
        Image.fromarray(digits[i]).save(tmp_path / f"{i}.png")
    one = prepare(Image.fromarray(digits[0]), about.preprocessing)[0]
    found = settled(MANY, {"images": str(tmp_path)}, Prober(LENET, one), about.preprocessing).images
    expected = [prepare(Image.fromarray(digits[i]), about.preprocessing)[0][0] for i in range(3)]
    np.testing.assert_array_equal(found, np.stack(expected))
    own = Preprocessing(color="GRAY", resize="none", mean=(0.0,), std=(255.0,))  # keeps the size of the photo
    Image.new("L", (30, 28)).save(tmp_path / "wide.png")
    with pytest.raises(ImageError, match=r"wide.png' becomes \[1, 28, 30\], the image is \[1, 28, 28\]"):
        settled(MANY, {"images": str(tmp_path)}, Prober(LENET, one), own)
    with pytest.raises(OptionError, match="there is no such folder or file"):
        settled(MANY, {"images": "nowhere"}, Prober(LENET, one), own)
    with pytest.raises(ModelError, match="not a picture"):
        settled(MANY, {"images": str(tmp_path)}, Prober(LENET, one))


def test_channels_last_become_planes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["y"])]
    model = model_of(nodes, {"x": ["N", 4, 4, 3]}, {"y": ["N", 48]})
    own = Preprocessing(layout="NHWC", size=(4, 4), resize="stretch")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))
    photo.save(tmp_path / "p.png")
    x, _ = prepare(photo, own)
    prober = Prober(model, x, Asked("output", preprocessing=own.to_record()))
    found = settled(MANY, {"images": str(tmp_path)}, prober, own).images
    np.testing.assert_array_equal(found, x.transpose(0, 3, 1, 2))


def test_a_gaussian_comes_from_its_file(tmp_path: Path) -> None:
    made = Gaussian(np.zeros((2, 9)), np.eye(9)[None].repeat(2, axis=0), 3)
    save_gaussian(made, tmp_path / "g.npz")
    technique = TECHNIQUES["pda.mean"]
    prober = Prober(picture(), X)
    given = {"gaussian": str(tmp_path / "g.npz"), "k": "2", "l": "3"}
    assert settled(technique, given, prober).gaussian.digest == made.digest
    with pytest.raises(OptionError, match="needs gaussian=FILE"):
        settled(technique, {"gaussian": "none"}, prober)
    with pytest.raises(OptionError, match=r"nowhere\.npz"):
        settled(technique, {"gaussian": "nowhere.npz"}, prober)


def test_settings_are_shared_out() -> None:
    given = {"samples": 3, "many.count": "5", "count": "7", "slabs.samples": 9}
    assert shared_out([SLABS, MANY], given) == [{"samples": 9}, {"count": "5"}]
    with pytest.raises(OptionError) as caught:
        shared_out([SLABS, MANY], {"sample": 3})
    assert "slabs, many: no setting 'sample' (did you mean 'samples'?); known: colour, count" in str(
        caught.value
    )
    with pytest.raises(OptionError, match=r"no setting 'many.samples'"):
        shared_out([SLABS, MANY], {"many.samples": 3})
