"""Occlusion against golden copies, Captum and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxplain import ExplainWarning, OptionError
from onnxplain.runtime.perturb.occlusion import OCCLUSION, OcclusionSettings, tiling
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import (
    CONVOLUTIONAL,
    IMAGE,
    SIZE,
    close,
    constant,
    golden,
    heard,
    linear,
    stored,
    torch_forward,
    weights,
)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("reduce", ("sum", "mean"))
def test_golden(name: str, reduce: str) -> None:
    known = stored(name)
    found = perform(golden(name), OCCLUSION, [int(known["y"].argmax())], k=3, stride=2, reduce=reduce)
    close(found.maps[0], known[f"occlusion_{reduce}"])


@pytest.mark.parametrize("name", ("cnn_bias", "cnn_odd", "concat"))
@pytest.mark.parametrize(("k", "stride"), ((3, 2), (3, 3), (4, 3), (5, 4), (2, 1)))
def test_truncated_windows_are_those_of_captum(name: str, k: int, stride: int) -> None:
    captum, torch = pytest.importorskip("captum.attr"), pytest.importorskip("torch")
    prober, c = golden(name), int(stored(name)["y"].argmax())
    x = torch.from_numpy(prober.image)
    channels = prober.channels
    known = captum.Occlusion(torch_forward(prober)).attribute(
        x, sliding_window_shapes=(channels, k, k), strides=(channels, stride, stride), baselines=0.3, target=c
    )
    found = perform(prober, OCCLUSION, [c], k=k, stride=stride, value=0.3, border="truncate")
    for plane in known.numpy()[0]:
        close(found.maps[0], plane, 1e-5)


def test_a_linear_model_pixel_by_pixel() -> None:
    found = perform(linear(), OCCLUSION, [0, 1], k=1, stride=1, value=0.25)
    for c in (0, 1):
        close(found.maps[c], (weights(c) * (IMAGE[0] - 0.25)).sum(0))


@pytest.mark.parametrize("border", ("shift", "truncate"))
@pytest.mark.parametrize("reduce", ("sum", "mean"))
def test_a_linear_model_window_by_window(border: str, reduce: str) -> None:
    k, stride = 4, 3
    drop = (weights(1) * IMAGE[0]).sum(0)
    known, covers = np.zeros(SIZE[1:]), np.zeros(SIZE[1:])
    for r, c in itertools.product(
        range(0, SIZE[1] - k + stride, stride), range(0, SIZE[2] - k + stride, stride)
    ):
        if border == "shift":
            r, c = min(r, SIZE[1] - k), min(c, SIZE[2] - k)
        window = np.s_[r : r + k, c : c + k]
        known[window] += drop[window].sum()
        covers[window] += 1
    found = perform(linear(), OCCLUSION, [1], k=k, stride=stride, border=border, reduce=reduce)
    close(found.maps[0], known if reduce == "sum" else known / covers)


def test_one_window_is_the_whole_image() -> None:
    found = perform(golden("cnn_bias"), OCCLUSION, k=8, value=0.1)
    prober = golden("cnn_bias")
    empty = prober.scores(np.full_like(prober.image, 0.1))[0, found.classes[0]]
    np.testing.assert_allclose(
        found.maps[0], np.full((8, 8), prober.base[found.classes[0]] - empty), rtol=1e-6
    )


@pytest.mark.parametrize("border", ("shift", "truncate"))
@pytest.mark.parametrize(("k", "stride"), ((3, 2), (4, 4), (7, 5), (9, 1), (5, None), (1, None)))
def test_every_pixel_is_covered_by_windows_inside(border: str, k: int, stride: int | None) -> None:
    covers = np.zeros((9, 11), int)
    for part in tiling((9, 11), OcclusionSettings(k=k, stride=stride, border=border)):  # type: ignore[arg-type]
        for r, c in part.places:
            assert r + part.size[0] <= 9 and c + part.size[1] <= 11
            covers[r : r + part.size[0], c : c + part.size[1]] += 1
    assert covers.min() >= 1


def test_the_default_stride_bounds_the_work() -> None:
    (part,) = tiling((224, 224), OcclusionSettings())
    assert len(part.places) == 961 and OcclusionSettings().stride == 7 and OcclusionSettings(k=1).stride == 1


@pytest.mark.parametrize("border", ("shift", "truncate"))
def test_forwards_are_known_and_told(border: str) -> None:
    calls, tell = heard()
    prober = linear(batch=5)
    found = perform(prober, OCCLUSION, None, tell, k=4, stride=3, border=border)
    assert found.forwards == found.record["expected_forwards"] == calls[-1][0] == calls[-1][1] == 9
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert found.record["settings"]["stride"] == 3


def test_the_batch_does_not_matter() -> None:
    maps = [
        perform(golden("cnn_bias", batch=n), OCCLUSION, [0, 2], k=3, value="blur").maps for n in (1, 7, 64)
    ]
    close(maps[1], maps[0], 1e-5)
    close(maps[2], maps[0], 1e-5)


def test_a_constant_classifier_has_no_drop() -> None:
    with pytest.warns(ExplainWarning, match="zero everywhere in rows 0, 1 of 2"):
        assert not perform(constant(), OCCLUSION, [0, 1], k=3).maps.any()


def test_colours() -> None:
    for value, known in (
        ("mean", IMAGE[0].mean((1, 2), keepdims=True)),
        ((0.5, -1.0, 2.0), np.array([0.5, -1.0, 2.0]).reshape(3, 1, 1)),
    ):
        found = perform(linear(), OCCLUSION, [0], k=1, stride=1, value=value)
        close(found.maps[0], (weights(0) * (IMAGE[0] - known)).sum(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    (
        ({"k": 10}, "larger than the image, 9 x 10; give k up to 9"),
        ({"k": 3, "stride": 4}, "stride=4 is larger than k=3"),
        ({"k": 0}, "k=0"),
        ({"k": 3, "stride": 0}, "stride=0"),
        ({"k": 2.5}, "k=2.5"),
        ({"k": 3, "border": "pad"}, "border='pad' is none of shift, truncate"),
        ({"k": 3, "reduce": "max"}, "reduce='max' is none of mean, sum"),
        ({"k": 3, "value": "grey"}, "value='grey'"),
        ({"k": 3, "value": "segment"}, "value='segment'"),
        ({"k": 3, "value": float("nan")}, "finite"),
        ({"k": 3, "value": (1.0, 2.0)}, "2 numbers for 3 channels"),
        ({"window": 3}, "no setting 'window'"),
    ),
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        perform(linear(), OCCLUSION, **settings)
    assert words in str(error.value)
