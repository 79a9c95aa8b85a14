"""What was checked, with which result: a record for people, and for the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from ...rewriter.card import PREFIX
from ..atomic import write_bytes
from ..opening import serialize
from .outcome import Outcome, Status, number

KEY = f"{PREFIX}certificate"


@dataclass(frozen=True)
class Certificate:
    """sha256: of the file without its certificate. inputs: name and hash of each. settings: seed, versions, provider,
    and whether the original model was there. Nothing in it depends on when it was made."""

    outcomes: tuple[Outcome, ...]
    sha256: str
    inputs: tuple[Mapping[str, str], ...]
    settings: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(outcome.failed for outcome in self.outcomes)

    def count(self, status: Status) -> int:
        return sum(outcome.status is status for outcome in self.outcomes)

    def record(self) -> dict[str, Any]:
        """The JSON object that goes into the file."""
        checks = [
            {
                "check": o.check,
                "status": o.status.value,
                "measured": number(o.measured),
                "bound": number(o.bound),
                "note": o.note,
            }
            for o in self.outcomes
        ]
        return {
            "passed": self.passed,
            "checks": checks,
            "sha256": self.sha256,
            "inputs": [dict(item) for item in self.inputs],
            **self.settings,
        }


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without a certificate: what a certificate is about."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [entry for entry in copy.metadata_props if entry.key != KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    return copy


def fingerprint(model: onnx.ModelProto) -> str:
    return hashlib.sha256(serialize(bare(model))).hexdigest()


def store(path: str | os.PathLike[str], model: onnx.ModelProto, certificate: Certificate) -> None:
    """Write the model with its certificate, in place of an older one, whole or not at all; nothing else changes.
    Raises OptionError when the file cannot be written."""
    stamped = bare(model)
    entry = stamped.metadata_props.add()
    entry.key = KEY
    entry.value = json.dumps(certificate.record(), sort_keys=True, ensure_ascii=False)
    write_bytes(path, serialize(stamped))
