"""What an emitted file says about itself survives, and damage to it is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import onnx
import pytest
from onnx import helper

from onnxplain.rewriter.card import PREFIX, Card, is_explanation, read_card
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ModelError
from onnxplain.rules.registry import find

from .nets import net

FULL = Card(
    version="1.2.3",
    method="saliency",
    options={"gate": "relu", "steps": 16, "low": None},
    target={"target": [1, 2], "output": "y", "head": "z", "size": 3, "squash": "Softmax"},
    rules={"conv1": "conv", "größe/ñ": "relu"},
    lanes=("primal", "reference"),
    source={"sha256": "0" * 64, "bytes": 12, "opset": 13, "producer": "", "name": None},
    approximations=("a, b", 'quotes " and \\ and\nlines'),
    citation="Simonyan 2014",
    preprocessing={"layout": "NCHW", "mean": [0.5, 0.25]},
    labels=("cat", "dog", "猫"),
    certificate={"checked": True},
)


def model() -> onnx.ModelProto:
    return net("g (float[N,3] x) => (float[N,3] y) { [only] y = Relu(x) }")


def stamped(card: Card = FULL) -> onnx.ModelProto:
    made = model()
    card.stamp(made)
    return made


def test_a_card_comes_back_as_it_was() -> None:
    copy = onnx.ModelProto.FromString(stamped().SerializeToString())
    assert read_card(copy) == FULL


def test_what_is_not_set_is_not_written() -> None:
    plain = replace(FULL, preprocessing=None, labels=None, certificate=None)
    made = stamped(plain)
    keys = {entry.key for entry in made.metadata_props}
    assert not keys & {PREFIX + name for name in ("preprocessing", "labels", "certificate", "extra")}
    assert read_card(made) == plain


def test_every_value_is_one_json_text() -> None:
    for entry in stamped().metadata_props:
        assert entry.key.startswith(PREFIX)
        json.loads(entry.value)


def test_stamping_twice_leaves_one_card_and_the_models_own_metadata() -> None:
    made = model()
    helper.set_model_props(made, {"author": "nobody", "onnxplain": "not ours"})
    FULL.stamp(made)
    second = replace(FULL, method="grad-cam", labels=None)
    second.stamp(made)
    keys = [entry.key for entry in made.metadata_props]
    assert len(set(keys)) == len(keys)
    assert {"author", "onnxplain"} <= set(keys)
    assert read_card(made) == second


def test_only_emitted_files_are_explanations() -> None:
    assert is_explanation(stamped())
    assert not is_explanation(model())
    with pytest.raises(ModelError, match="carries no explanation"):
        read_card(model())


def damaged(key: str, value: str | None) -> onnx.ModelProto:
    made = stamped()
    kept = [(entry.key, entry.value) for entry in made.metadata_props if entry.key != PREFIX + key]
    del made.metadata_props[:]
    for name, text in [*kept, *([] if value is None else [(PREFIX + key, value)])]:
        made.metadata_props.add(key=name, value=text)
    return made


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", ""),
        ("method", "saliency"),
        ("method", "3"),
        ("rules", "[1, 2"),
        ("rules", "[1, 2]"),
        ("rules", '{"conv1": 3}'),
        ("labels", "7"),
        ("labels", '"cat"'),
        ("lanes", "null"),
        ("lanes", "true"),
        ("options", "[]"),
        ("target", "null"),
        ("source", '"x"'),
        ("approximations", "{}"),
        ("citation", "{}"),
        ("preprocessing", "[]"),
        ("certificate", "1"),
        ("version", "NaN"),
        ("rules", "[" * 5000 + "]" * 5000),
        ("target", None),
        ("version", None),
        ("rules", None),
    ],
)
def test_damaged_metadata_are_refused(key: str, value: str | None) -> None:
    with pytest.raises(ModelError, match=r"metadata is damaged: .*; compile it again"):
        read_card(damaged(key, value))


def test_the_damage_is_named() -> None:
    with pytest.raises(ModelError, match="'rules'"):
        read_card(damaged("rules", "[1, 2]"))


def test_keys_of_a_later_version_are_passed_over() -> None:
    made = stamped()
    made.metadata_props.add(key=PREFIX + "invented-later", value="{not json")
    assert read_card(made) == FULL


def test_the_card_of_a_compiled_file() -> None:
    source = model()
    data = source.SerializeToString()
    made, card = compile_model(
        data, find("guided-backprop"), Request(target=2, version="9", options={"gate": "relu"})
    )
    assert read_card(made) == card
    assert card.source["sha256"] == hashlib.sha256(data).hexdigest()
    assert card.source["bytes"] == len(data)
    assert card.source["opset"] == 18
    assert (card.version, card.method, card.lanes) == ("9", "guided-backprop", ("primal",))
    assert card.options["gate"] == "relu"
    assert list(card.rules) == ["only"]
    assert card.target == {"target": 2, "output": "y", "head": "y", "size": 3, "squash": None}
