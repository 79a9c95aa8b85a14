"""Files of patterns and statistics, and the pictures that patterns are fitted on."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import ImageError, ModelError, OptionError, StaleError
from onnxplain.runtime.estimate import (
    Patterns,
    Plan,
    fit_patterns,
    gather,
    load_patterns,
    load_statistics,
    save_patterns,
    save_statistics,
)
from onnxplain.runtime.estimate.samples import Samples, samples
from onnxplain.runtime.preprocess import Preprocessing

LENET = models.path("mnist_lenet")
GREY = Preprocessing(color="GRAY", size=(28, 28), resize="stretch", mean=(0.0,), std=(255.0,))

Array = NDArray[Any]


def digits(count: int) -> Array:
    return models.digits()[0][:count]


def test_the_digits_that_come_along() -> None:
    """200 of each kind; LeNet, which was trained on most of them, knows at least 97 of 100."""
    images, labels = models.digits()
    assert images.shape == (2000, 28, 28) and images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [200] * 10
    assert len(set(labels[:20].tolist())) > 5, "in random order"
    explainer = onnxplain.compile(LENET, "saliency", target="top")
    pictures = samples(images, GREY, False, np.dtype(np.float32))
    x = np.concatenate([pictures[i] for i in range(400)])
    np.testing.assert_allclose(x[:, 0], images[:400] / 255.0, atol=1e-7)
    assert np.mean(explainer(x).outputs["logits"].argmax(axis=1) == labels[:400]) >= 0.97


def small() -> Patterns:
    arrays = {
        "/a/Conv": {"plus": np.arange(24.0).reshape(2, 3, 4), "linear": np.ones((2, 3, 4))},
        "b": {"plus": np.asarray([[1.5]])},
    }
    return Patterns(arrays, {"sha256": "0" * 64, "images": 3, "warnings": ["μ"]})


def test_patterns_come_back_as_they_were(tmp_path: Path) -> None:
    path = save_patterns(small(), tmp_path / "p.npz")
    back = load_patterns(path)
    assert back.digest == small().digest and back.provenance == small().provenance
    assert list(back.arrays) == ["/a/Conv", "b"]
    save_patterns(back, tmp_path / "q.npz")
    assert path.read_bytes() == (tmp_path / "q.npz").read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("p.npz", "q.npz")] == []


def test_statistics_come_back_as_they_were(tmp_path: Path) -> None:
    found = gather(LENET, digits(3), plan=Plan(shard=(1, 2)))
    back = load_statistics(save_statistics(found, tmp_path / "s"))
    assert back.about == found.about and back.skipped == found.skipped and back.indices.tolist() == [0, 2]
    for node, moments in found.nodes.items():
        other = back.nodes[node]
        assert other.layout == moments.layout
        np.testing.assert_array_equal(other.weight, moments.weight)
        for a, b in ((moments.sums, other.sums), (moments.squares, other.squares)):
            np.testing.assert_array_equal(a.high, b.high)
            np.testing.assert_array_equal(a.low, b.low)


def forged(path: Path, **arrays: Array) -> None:
    np.savez(path, allow_pickle=False, **arrays)


META = {"kind": "onnxplain patterns 1", "nodes": ["n"], "provenance": {}}


@pytest.mark.parametrize(
    ("meta", "arrays"),
    [
        ({**META, "kind": "onnxplain statistics 1"}, {}),
        ({**META, "nodes": 3}, {}),
        ({**META, "provenance": 3}, {}),
        ({"kind": META["kind"]}, {}),
        ([], {}),
        (META, {"0/plus": np.asarray([np.nan])}),
        (META, {"0/plus": np.asarray(["text"])}),
        (META, {"1/plus": np.ones(2)}),
        (META, {"x/plus": np.ones(2)}),
    ],
)
def test_forged_patterns(tmp_path: Path, meta: Any, arrays: dict[str, Array]) -> None:
    path = tmp_path / "p.npz"
    forged(path, meta=np.asarray(json.dumps(meta)), **arrays)
    with pytest.raises(OptionError, match="cannot be read as patterns"):
        load_patterns(path)


def test_damaged_files(tmp_path: Path) -> None:
    good = save_patterns(small(), tmp_path / "good.npz").read_bytes()
    path = tmp_path / "p.npz"
    with pytest.raises(OptionError, match="there is no such file of patterns"):
        load_patterns(path)
    with pytest.raises(OptionError, match="cannot be read"):
        load_patterns(tmp_path)
    middle = good.index(b"descr") + 200
    cases = [
        b"",
        b"PK",
        good[: len(good) // 2],
        good[:middle] + b"\xff" * 9 + good[middle + 9 :],
        b"text" * 99,
    ]
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(OptionError, match="cannot be read as patterns"):
            load_patterns(path)
    np.save(tmp_path / "p.npy", np.ones(3))
    with pytest.raises(OptionError, match="another kind of file"):
        load_patterns(tmp_path / "p.npy")
    forged(path, x=np.ones(3))
    with pytest.raises(OptionError, match="another kind of file"):
        load_patterns(path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, allow_pickle=True, meta=np.asarray([{"kind": "x"}], object))
    with pytest.raises(OptionError, match="cannot be read as patterns"):
        load_patterns(path)
    np.save(tmp_path / "x.npy", np.asarray([{}], object), allow_pickle=True)
    with pytest.raises(ImageError, match="cannot be read as an array"):
        gather(LENET, tmp_path / "x.npy")


def test_an_array_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """A header that asks for 8 TB."""
    path = tmp_path / "p.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "meta.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
        )
    with pytest.raises(OptionError, match="cannot be read as patterns"):
        load_patterns(path)


def test_forged_statistics(tmp_path: Path) -> None:
    path = save_statistics(gather(LENET, digits(1)), tmp_path / "s")
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    for key, value in (
        ("0/sums", np.ones((1, 2, 3))),
        ("0/weight", np.ones(3)),
        ("indices", np.ones(3)),
        ("1/squares/low", np.ones((1, 50), np.float32)),
    ):
        with open(path, "wb") as out:
            np.savez(out, allow_pickle=False, **{**arrays, key: value})
        with pytest.raises(OptionError, match="cannot be read as statistics"):
            load_statistics(path)
    del arrays["2/sums"]
    with open(path, "wb") as out:
        np.savez(out, allow_pickle=False, **arrays)
    with pytest.raises(OptionError, match="cannot be read as statistics"):
        load_statistics(path)


def test_patterns_of_another_model(tmp_path: Path) -> None:
    fitted = fit_patterns(LENET, digits(3))
    path = save_patterns(fitted, tmp_path / "p.npz")
    assert onnxplain.compile(LENET, "pattern-net", patterns=path).card.options["patterns"]["images"] == 3
    with pytest.raises(StaleError, match="fitted on another model"):
        onnxplain.compile(models.path("efficientnet_lite0"), "pattern-net", patterns=path)


def as_samples(images: Any, raw: bool = False) -> Samples:
    return samples(images, None if raw else GREY, raw, np.dtype(np.float32))


def test_arrays_of_pictures() -> None:
    """uint8 in 0..255 or floats in 0..1, channels last or first: the same input of the model."""
    grey = digits(2)
    want = grey[:, None] / np.float32(255.0)
    colour = np.repeat(grey[..., None], 3, axis=3)
    for array in (grey, grey[..., None], grey[:, None], grey / 255.0, colour, colour.transpose(0, 3, 1, 2)):
        got = as_samples(array)
        assert len(got) == 2
        np.testing.assert_allclose(np.concatenate([got[0], got[1]]), want, atol=1e-6)
    raw = as_samples(want, raw=True)
    np.testing.assert_array_equal(raw[1], want[1:])


def test_folders_and_lists(tmp_path: Path) -> None:
    """By name, folders inside too, other files not; a list has its paths from its own folder."""
    pictures = digits(3)
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    places = ["a.png", "inner/b.png", "z.PNG"]
    for place, picture in zip(places, pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / "photos" / place)
    (tmp_path / "photos" / "notes.md").write_text("no picture")
    (tmp_path / "list.txt").write_text("photos/a.png\n\n  photos/inner/b.png\nphotos/z.PNG\n")
    paths = [tmp_path / "photos" / place for place in places]
    variants = [
        tmp_path / "photos",
        str(tmp_path / "list.txt"),
        paths,
        [Image.fromarray(p) for p in pictures],
    ]
    for images in variants:
        got = as_samples(images)
        np.testing.assert_allclose(
            np.concatenate([got[i] for i in range(3)])[:, 0], pictures / 255.0, atol=1e-6
        )
    digests = {as_samples(images).digest for images in variants[:3]}
    assert len(digests) == 1, "the same files, however they are named"
    assert as_samples(paths[::-1]).digest not in digests
    assert len(as_samples(paths[0])) == 1


def test_pictures_in_files_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", digits(2))
    np.savez(tmp_path / "b.npz", anything=digits(2))
    np.savez(tmp_path / "c.npz", labels=np.arange(2), images=digits(2))
    for name in ("a.npy", "b.npz", "c.npz"):
        np.testing.assert_allclose(as_samples(tmp_path / name)[1][0, 0], digits(2)[1] / 255.0, atol=1e-7)
    np.savez(tmp_path / "d.npz", one=digits(2), two=digits(2))
    with pytest.raises(ImageError, match=r"holds one, two; name the array of pictures `images` or `x`"):
        as_samples(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 28, 28), np.uint8), "holds no pictures"),
        (np.zeros((2, 28, 28), np.int32), "uint8 or floating point in 0..1, not int32"),
        (np.zeros((2, 28), np.uint8), "no batch of pictures"),
        (np.zeros((2, 28, 28, 4), np.uint8), "no batch of pictures"),
        (np.zeros((2, 28, 28), "U1"), "holds no pictures"),
    ],
)
def test_arrays_that_are_no_pictures(array: Array, message: str) -> None:
    with pytest.raises((ImageError, OptionError), match=message):
        as_samples(array)


def test_values_that_are_no_pixels() -> None:
    with pytest.raises(ImageError, match=r"image\[1\]: values 0 to 2 are no picture"):
        as_samples(np.asarray([np.zeros((28, 28)), np.full((28, 28), 2.0) * np.eye(28)]))[1]
    holes = np.zeros((2, 28, 28))
    holes[1, 3, 3] = np.nan
    with pytest.raises(ImageError, match=r"image\[1\] holds NaN or infinity"):
        as_samples(holes)[1]
    with pytest.raises(ImageError, match=r"image\[1\] holds NaN or infinity"):
        gather(LENET, holes[:, None].astype(np.float32), raw_input=True)


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no such folder or file"):
        as_samples(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="holds no pictures"):
        as_samples(tmp_path)
    with pytest.raises(OptionError, match="there are no pictures"):
        as_samples([])
    (tmp_path / "list.txt").write_text("missing.png\n")
    with pytest.raises(ImageError, match=r"missing\.png': there is no such file"):
        gather(LENET, tmp_path / "list.txt")
    (tmp_path / "list.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(OptionError, match="neither a folder, an array nor a text list"):
        as_samples(tmp_path / "list.bin")
    with pytest.raises(OptionError, match="raw_input is for arrays"):
        as_samples([tmp_path / "a.png"], raw=True)
    with pytest.raises(ModelError, match="not a picture; give an array of model inputs with raw_input"):
        samples(digits(1), None, False, np.dtype(np.float32))
