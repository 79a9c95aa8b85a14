"""The answer to an inference request: JSON, and the bytes of the tensors that were asked for as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..telling import Finding
from .asking import Asked, Wanted
from .coding import SMALL, choose_coding, deflate
from .datatypes import Array, datatype_of, pack
from .refusal import Refusal

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Reply:
    """A body, ready to be sent."""

    body: bytes
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def write_answer(
    model: str,
    asked: Asked,
    outputs: Mapping[str, Array],
    labels: Sequence[str] | None,
    accepted: str = "",
    findings: Sequence[Finding] = (),
) -> Reply:
    """The outputs that were asked for, in that order. labels: class names, written behind "value:index" of the
    classification extension where an output has as many values a row. accepted: the client's Accept-Encoding. findings:
    what is to be told of outputs; the parameter `warning` of an output says it.

    Raises Refusal (400) for NaN and infinity in an output that is to be JSON, which has no word for them.
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for wanted in asked.outputs:
        array = outputs[wanted.name]
        if wanted.classes:
            array = top_classes(array, wanted.classes, labels)
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if wanted.binary:
            blobs.append(pack(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _listed(array, wanted)
        told = "; ".join(str(finding) for finding in findings if finding.output == wanted.name)
        if told:
            entry["parameters"] = {**entry.get("parameters", {}), "warning": told}
        entries.append(entry)
    identity = {} if asked.id is None else {"id": asked.id}
    head = json.dumps({"model_name": model, "model_version": "1", **identity, "outputs": entries}).encode()
    if not blobs:
        return packed(Reply(head), accepted)
    # The length is that of the JSON before any content coding.
    headers = {HEADER_LENGTH: str(len(head))}
    return packed(Reply(b"".join([head, *blobs]), "application/octet-stream", headers), accepted)


def packed(reply: Reply, accepted: str) -> Reply:
    """The reply in a coding that the client accepts, where it is worth it."""
    coding = choose_coding(accepted)
    if not coding or len(reply.body) < SMALL:
        return reply
    headers = {**reply.headers, "Content-Encoding": coding, "Vary": "Accept-Encoding"}
    return Reply(deflate(reply.body, coding), reply.media, headers)


def top_classes(array: Array, count: int, labels: Sequence[str] | None) -> Array:
    """(..., K) -> texts (..., min(count, K)), "value:index" or "value:index:label", the largest value first; of equal
    values the lower index. NaN comes last."""
    rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    keys = -rows.astype(np.float64)
    order = np.argsort(keys, axis=1, kind="stable")[:, :count]
    names = labels if labels is not None and len(labels) == rows.shape[1] else None
    texts = [
        f"{float(row[i]):f}:{i}" + (f":{names[i]}" if names is not None else "")
        for row, best in zip(rows, order, strict=True)
        for i in best.tolist()
    ]
    return np.array(texts, object).reshape(*array.shape[:-1], order.shape[1])


def _listed(array: Array, wanted: Wanted) -> list[object]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refusal(
            400,
            f"output {wanted.name!r} holds NaN or infinity, which JSON cannot say; ask for it with binary_data",
        )
    return [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
