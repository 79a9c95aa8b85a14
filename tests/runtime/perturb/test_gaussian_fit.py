"""Fitting the Gaussian of patches: numpy's own covariance, and no dependence on how the pictures are dealt out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from onnxplain import models
from onnxplain.rewriter.errors import ImageError, OptionError, StaleError
from onnxplain.runtime.estimate import Plan
from onnxplain.runtime.perturb.gaussian_fit import (
    Patches,
    fit_gaussian,
    gather_patches,
    gaussian_of,
    load_patch_sums,
    merge_patch_sums,
    save_patch_sums,
)
from onnxplain.runtime.preprocess import Preprocessing

Array = npt.NDArray[np.float32]


def pictures(count: int = 7, channels: int = 2) -> Array:
    rng = np.random.default_rng(5)
    smooth = rng.normal(size=(count, channels, 9, 11)).cumsum(axis=2).cumsum(axis=3)
    return (smooth / 4 + 30).astype(np.float32)


def drawn(x: Array, of: Patches) -> npt.NDArray[np.float64]:
    """The patches of all pictures, (patches, channels, patch²)."""
    found = []
    for i, picture in enumerate(x):
        for r, c in of.corners(i, of.count(i, len(x)), (picture.shape[1], picture.shape[2])):
            found.append(picture[:, r : r + of.patch, c : c + of.patch].reshape(len(picture), -1))
    return np.array(found, np.float64)


@pytest.mark.parametrize("joint", [False, True])
def test_mean_and_covariance(joint: bool) -> None:
    """np.cov in float64; 1e-9 of the largest entry: ours goes through squares, 900 times the variance here."""
    x, of = pictures(), Patches(patch=4, patches=500, seed=3, joint=joint)
    found = fit_gaussian(x, of, raw_input=True)
    patches = drawn(x, of)
    assert len(patches) == 500 and found.provenance["counted"] == 500
    groups = patches.reshape(500, 1, -1) if joint else patches
    for i in range(groups.shape[1]):
        np.testing.assert_allclose(found.mu[i], groups[:, i].mean(0), rtol=1e-12)
        expected = np.cov(groups[:, i].T)
        assert np.abs(found.cov[i] - expected).max() < 1e-9 * np.abs(expected).max()
    assert found.joint == joint and found.patch == 4
    assert found.low is not None and np.array_equal(found.low, x.min(0))
    assert found.high is not None and np.array_equal(found.high, x.max(0))


def test_places() -> None:
    """Dealt evenly, inside, and every place of about equal chance."""
    of = Patches(patch=4, patches=10, seed=1)
    assert [of.count(i, 4) for i in range(4)] == [2, 3, 2, 3]
    many = Patches(patch=4, patches=6000).corners(0, 6000, (6, 5))
    _, counts = np.unique(many, axis=0, return_counts=True)
    assert many.min() == 0 and many.max(0).tolist() == [2, 1]
    assert len(counts) == 6 and abs(counts - 1000).max() < 5 * 29  # five standard deviations
    assert not np.array_equal(of.corners(0, 9, (9, 9)), of.corners(1, 9, (9, 9)))
    assert not np.array_equal(of.corners(0, 9, (9, 9)), Patches(4, 10, seed=2).corners(0, 9, (9, 9)))


def test_shards_and_batches_change_nothing(tmp_path: Path) -> None:
    """Bit for bit, also through files and whatever the order."""
    x, of = pictures(), Patches(patch=3, patches=120)
    whole = fit_gaussian(x, of, raw_input=True)
    again = fit_gaussian(x, of, raw_input=True, plan=Plan(batch=1))
    parts = []
    for i in (3, 1, 2):
        sums = gather_patches(x, of, raw_input=True, plan=Plan(shard=(i, 3)))
        parts.append(load_patch_sums(save_patch_sums(sums, tmp_path / f"{i}")))
    assert [part.images for part in parts] == [2, 3, 2]
    merged = merge_patch_sums(parts)
    assert (merged.images, merged.wanted) == (7, 7)
    for other in (again, gaussian_of(merged)):
        assert other.digest == whole.digest and other.provenance == whole.provenance


def test_going_on(tmp_path: Path) -> None:
    """Stopped by a picture that cannot be read: what was counted is kept, and no more."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(models.digits()[0][:6]):
        Image.fromarray(picture).save(folder / f"{i}.png")
    good = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(good[:50])
    of, record = Patches(patch=5, patches=60), Preprocessing(color="GRAY", mean=(0.0,), std=(255.0,))
    part = tmp_path / "part"
    with pytest.raises(ImageError, match=r"4\.png"):
        gather_patches(folder, of, preprocessing=record, plan=Plan(partial=part))
    kept = load_patch_sums(part)
    assert kept.indices.tolist() == [0, 1, 2, 3]
    (folder / "4.png").write_bytes(good)
    with pytest.raises(StaleError, match="other pictures"):
        gather_patches(folder, of, preprocessing=record, plan=Plan(partial=part, resume=True))
    part.unlink()
    whole = gather_patches(folder, of, preprocessing=record)
    some = gather_patches(folder, of, preprocessing=record, plan=Plan(shard=(1, 2)))
    save_patch_sums(some, part)
    with pytest.raises(OptionError, match="go on with --resume"):
        gather_patches(folder, of, preprocessing=record, plan=Plan(partial=part))
    with pytest.raises(OptionError, match="another shard"):
        gather_patches(folder, of, preprocessing=record, plan=Plan(partial=part, resume=True, shard=(2, 2)))
    gone_on = gather_patches(folder, of, preprocessing=record, plan=Plan(partial=part, resume=True))
    assert gaussian_of(gone_on).digest == gaussian_of(whole).digest
    with pytest.raises(StaleError, match="another seed"):
        other = Patches(patch=5, patches=60, seed=1)
        gather_patches(folder, other, preprocessing=record, plan=Plan(partial=part, resume=True))


def test_pictures_of_all_sizes(tmp_path: Path) -> None:
    """Where the model takes any size, the bounds are those of the channels."""
    rng, paths = np.random.default_rng(0), []
    for i, size in enumerate([(9, 12), (20, 7), (8, 8)]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 200, (*size, 3), np.uint8)).save(paths[-1])
    rgb, bgr = Preprocessing(layout="NHWC"), Preprocessing(color="BGR")
    found = fit_gaussian(paths, Patches(4, 90), preprocessing=rgb)
    assert found.size is None and found.low is not None and found.low.shape == (3, 1, 1)
    other = fit_gaussian(paths, Patches(4, 90), preprocessing=bgr)
    assert np.array_equal(found.cov, other.cov[::-1]), "planes are channel first, whatever the layout"
    fixed = Preprocessing(size=(16, 16), resize="stretch")
    assert fit_gaussian(paths, Patches(4, 90), preprocessing=fixed).size == (16, 16)


def test_more_pictures_than_patches() -> None:
    x = pictures(9)
    x[0] = np.nan  # never read, or it would be refused
    sums = gather_patches(x, Patches(3, 4), raw_input=True)
    assert sums.images == sums.wanted == 4
    found = gaussian_of(sums)
    assert "has not full rank" in found.provenance["warnings"][0]
    assert found.low is not None and np.array_equal(found.low, x[sums.indices].min(0))
    with pytest.raises(OptionError, match="shard holds no patch"):
        gather_patches(x, Patches(3, 4), raw_input=True, plan=Plan(shard=(1, 9)))


def test_merging_what_does_not_belong_together(tmp_path: Path) -> None:
    x, of = pictures(), Patches(3, 50)
    one = gather_patches(x, of, raw_input=True, plan=Plan(shard=(1, 2)))
    with pytest.raises(OptionError, match="holds picture 0 a second time"):
        merge_patch_sums([one, one])
    with pytest.raises(StaleError, match="another seed"):
        merge_patch_sums([one, gather_patches(x, Patches(3, 50, 1), raw_input=True, plan=Plan(shard=(2, 2)))])
    with pytest.raises(StaleError, match="other pictures"):
        merge_patch_sums([one, gather_patches(x[::-1], of, raw_input=True, plan=Plan(shard=(2, 2)))])
    with pytest.raises(OptionError, match="nothing to merge"):
        merge_patch_sums([])
    file = tmp_path / "s"
    save_patch_sums(one, file)
    with np.load(file) as stored:
        arrays = dict(stored)
    with open(file, "wb") as out:
        np.savez(out, allow_pickle=False, **{**arrays, "moments": arrays["moments"][:, 1:]})
    with pytest.raises(OptionError, match="cannot be read as statistics of patches"):
        load_patch_sums(file)


def test_bad_input() -> None:
    x = pictures()
    with pytest.raises(OptionError, match="how the pictures are prepared"):
        fit_gaussian(x, Patches(3, 50))
    with pytest.raises(ImageError, match=r"image\[0\], 9 high and 11 wide, holds no patch of 10 x 10"):
        fit_gaussian(x, Patches(10, 50), raw_input=True)
    with pytest.raises(ImageError, match=r"patches need \(channels, height, width\)"):
        fit_gaussian(x[:, 0], Patches(3, 50), raw_input=True)
    for bad, reason in ((np.zeros_like(x), "channel 0"), (np.full_like(x, 0.1), "channel 0")):
        with pytest.raises(OptionError, match=f"{reason} has no variance"):
            fit_gaussian(bad, Patches(3, 50), raw_input=True)
    for patch, patches, seed, reason in (
        (0, 9, 0, "at least 1"),
        (3, 1, 0, "at least 2"),
        (3, 9, -1, "seed is -1"),
    ):
        with pytest.raises(OptionError, match=reason):
            Patches(patch, patches, seed)
    with pytest.raises(OptionError, match="1 patches make no covariance"):
        gaussian_of(gather_patches(x, Patches(3, 7), raw_input=True, plan=Plan(shard=(1, 7))))
