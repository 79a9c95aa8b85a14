"""A photo in, a map out: for clients that have a picture and no tensors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...rewriter.errors import ImageError, TargetError
from ..decoding import Bounds, decode
from ..describe import Description
from ..explainer import Result
from ..images import prepare
from ..pictures import Explained, cell, class_index, display_of, places_of, probabilities, shows_values
from ..render import readout
from .answering import Reply, packed
from .coding import qualities
from .refusal import Refusal
from .served import Served

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 32_000_000
"""Of one picture: 100 MB as RGB."""
BOUNDS = Bounds(MAX_PIXELS, 100_000, 450_000_000)
"""Pixels, pixels a side, and bytes of working memory."""
TOP = 5


def choose_media(accept: str | None) -> str:
    """ "application/json" or "image/png", whichever the client likes better; JSON where it does not care.

    Raises Refusal (406) for a client that takes neither."""
    weights = qualities(accept) if accept else {"*/*": 1.0}
    anything = weights.get("*/*", 0.0)
    json_, png = (
        weights.get(media, weights.get(f"{media.split('/')[0]}/*", anything))
        for media in ("application/json", "image/png")
    )
    if json_ <= 0.0 and png <= 0.0:
        raise Refusal(406, "this answers application/json or image/png")
    named = "image/png" in weights and "application/json" not in weights
    return "image/png" if png > json_ or (png == json_ and named) else "application/json"


def describe_pictures(served: Served) -> Description:
    """Raises Refusal (400) for a model that gives no map of a picture."""
    card, about = served.card, served.about
    if card is None:
        raise Refusal(400, f"{served.name!r} is a plain model and explains nothing; see `onnxplain compile`")
    if about is None or len(served.inputs) - len(card.inputs) != 1:
        raise Refusal(400, f"{served.name!r} does not take one picture; send tensors to /infer")
    aim = card.target.get("target")
    single = aim in ("input", "top") or (isinstance(aim, int) and not isinstance(aim, bool))
    if not single or not any(name.split("/")[0] == "attribution" for name in card.outputs):
        raise Refusal(400, f"{served.name!r} does not explain one class of a picture; send tensors to /infer")
    return about


def read_picture(body: bytes | bytearray) -> Image.Image:
    """A JPEG or PNG as upright 8-bit RGB. Raises ImageError for anything else, and for a picture over `BOUNDS`."""
    return decode(io.BytesIO(body), "the picture", BOUNDS, FORMATS)


def explain_picture(
    served: Served, body: bytes | bytearray, wish: str, media: str, accepted: str = ""
) -> Reply:
    """wish: the class, by index, name or "top". media: of `choose_media`. accepted: the client's Accept-Encoding.

    The PNG is the picture `onnxplain explain` draws. Of a map that is zero everywhere the field `warning` tells, or the
    header Onnxplain-Warning. Raises ImageError, TargetError, and as `Explainer`.
    """
    about = describe_pictures(served)
    assert served.card is not None
    aim = served.card.target
    chosen = -1 if wish == "top" else class_index(wish, about.labels)
    if aim["target"] != "input" and wish != "top":
        raise TargetError(f"this file explains a fixed target ({aim['target']!r}); leave class out")
    array, shown = prepare(read_picture(body), about.preprocessing)
    result = served.explainer(array, target=chosen if aim["target"] == "input" else None)
    if aim["target"] not in ("input", "top"):
        chosen = int(aim["target"])
    if result.attribution.ndim != 4:
        raise ImageError(f"the attribution has {result.attribution.ndim} axes; only pictures can be drawn")
    told = "; ".join(map(str, result.findings))
    index, classes = _classes(result, aim, chosen, about.labels)
    if media == "image/png":
        item = Explained(shown, served.card.method, result.attribution, index, "", float("nan"), about)
        buffer = io.BytesIO()
        cell(item).picture.save(buffer, "PNG")
        return Reply(buffer.getvalue(), "image/png", {"Onnxplain-Warning": told} if told else {})
    if not np.isfinite(result.attribution).all():
        raise ImageError(f"{told}; JSON has no word for it")
    answer = {
        "model_name": served.name,
        "model_version": served.version,
        "method": served.card.method,
        **classes,
        **_map(served.card.method, result.attribution, about),
        **({"warning": told} if told else {}),
    }
    return packed(Reply(json.dumps(answer, allow_nan=False).encode()), accepted)


def _classes(
    result: Result, aim: Any, chosen: int, labels: Sequence[str] | None
) -> tuple[int, dict[str, object]]:
    """The explained class, and the top classes of a classifier: probabilities, best first. Where the explained
    tensor is no output of the file, or has several values a channel, there are none."""
    if not shows_values(aim):
        return chosen, {"class": {"index": chosen, "label": None, "score": None}, "classes": []}
    output = np.asarray(result.outputs[aim["output"]])
    values = output.ravel().astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("the model's output holds NaN or infinity on this picture")
    index = int(np.argmax(values)) if chosen < 0 else chosen
    if len(places_of(output, aim)) > 1:
        return index, {"class": {"index": index, "label": None, "score": float(values[index])}, "classes": []}
    scores = probabilities(values, aim.get("squash"))
    order = np.argsort(-scores, kind="stable")[:TOP]

    def entry(i: int) -> dict[str, object]:
        name = labels[i] if labels is not None and i < len(labels) else None
        return {"index": i, "label": name, "score": float(scores[i])}

    return index, {"class": entry(index), "classes": [entry(int(i)) for i in order]}


def _map(method: str, attribution: npt.NDArray[Any], about: Description) -> dict[str, object]:
    """One value a pixel, by the readout that the method's papers draw: the sum over the channels of a signed map, the
    largest magnitude of any other."""
    name = "sum" if "sym" in display_of(method) else "maxabs"
    plane = readout(name, attribution, about.preprocessing.layout)[0]
    data = {"datatype": "FP32", "shape": list(plane.shape), "data": plane.ravel().tolist()}
    return {"readout": name, "map": data}
