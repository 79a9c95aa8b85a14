"""Upsample and Resize from version 1 to 18. What 7 to 10 leave open is what onnxruntime does: coordinates are
asymmetric, i / scale; the nearest cell is the one below, or above along axes that shrink."""

from __future__ import annotations

import numpy as np

from .spot import Spot


def scales_of_sides(spot: Spot) -> None:
    """Upsample 1: height_scale and width_scale of a picture (N, C, H, W); linear was called bilinear."""
    spot.set("scales", [1.0, 1.0, spot.pop("height_scale"), spot.pop("width_scale")])
    if spot.get("mode") == "bilinear":
        spot.set("mode", "linear")


def scales_to_input(spot: Spot) -> None:
    """Upsample 9."""
    spot.put(1, spot.constant(spot.pop("scales"), np.float32))


def asymmetric(spot: Spot) -> None:
    """Resize 11 has a region of interest before the scales, and can say how coordinates are found."""
    x, scales = spot.input(0), spot.input(1)
    spot.set("coordinate_transformation_mode", "asymmetric")
    del spot.node.input[1:]
    if spot.get("mode", "nearest") != "nearest":
        spot.put(2, scales)
        return
    known = spot.array(scales)
    if known is not None and (known >= 1).all():
        spot.set("nearest_mode", "floor")
        spot.put(2, scales)
    elif known is not None and (known <= 1).all():
        spot.set("nearest_mode", "ceil")
        spot.put(2, scales)
    else:
        _up_then_down(spot, x, scales)


def _up_then_down(spot: Spot, x: str, scales: str) -> None:
    """Some axes may grow and others shrink: two steps, each of which leaves the axes of the other alone."""
    one = spot.constant(1.0, np.float32)
    up, down = spot.add("Max", [scales, one]), spot.add("Min", [scales, one])
    names = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest"}
    spot.put(0, spot.add("Resize", [x, "", up], nearest_mode="floor", **names))
    spot.set("nearest_mode", "ceil")
    spot.put(2, down)


def half_pixel_nn(spot: Spot) -> None:
    """Resize 13 knows tf_half_pixel_for_nn no more: floor((i + 0.5) / scale), which is round_prefer_ceil of the half
    pixel. Empty tensors, which 11 asked for in the place of inputs that are not there, are left out."""
    for index in (1, 2, 3):
        known = spot.array(spot.input(index)) if spot.input(index) else None
        if known is not None and known.size == 0:
            spot.put(index, "")
    while spot.node.input and not spot.node.input[-1]:
        del spot.node.input[-1]
    if spot.get("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    rounding = spot.get("nearest_mode", "round_prefer_floor")
    if spot.get("mode", "nearest") != "nearest" or rounding != "floor":
        spot.refuse(f"tf_half_pixel_for_nn with {rounding!r} has no other name there")
    spot.set("coordinate_transformation_mode", "half_pixel")
    spot.set("nearest_mode", "round_prefer_ceil")
