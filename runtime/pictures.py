"""Explain photos: read, prepare, run every method, draw."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..rewriter.card import is_explanation, read_card
from ..rewriter.errors import ImageError, ModelError, OptionError, TargetError, nearest
from ..rewriter.load import Source
from ..rewriter.load import load as load_source
from ..rewriter.results import ATTRIBUTION
from ..rules.registry import find
from .arguments import vet_arguments
from .compiling import Model, compile, description
from .describe import Description
from .explainer import Explainer
from .images import Picture, opened, opened_all, prepare, save_image
from .loading import load_onnxruntime
from .panel import Cell, Row, panel
from .perturb.registry import refuse_techniques
from .render import back_projection, overlay, readout, signed
from .settings import for_method

Array = npt.NDArray[Any]
COMPILE = frozenset(signature(compile).parameters)
VETTING = ("external_data", "max_bytes", "domains")
"""Options of `compile` that decide how the file is read; it is read once, for all methods."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Explained:
    """One photo under one method. score: the probability of the class where the model has classes, else the
    value that is explained; NaN where that is no output of the file (head= some inner tensor). note: that the map is
    zero everywhere or not finite, and why; "" where it says something."""

    image: Image.Image
    method: str
    attribution: Array
    target: int
    label: str
    score: float
    about: Description
    note: str = ""

    @property
    def picture(self) -> Image.Image:
        """The map as the method's papers show it."""
        return cell(self).picture

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write photo and map side by side as a picture."""
        save_image(figure([self]), path)


@dataclass(frozen=True)
class Explanations(Sequence[Explained]):
    """Every photo under every method, photo by photo."""

    items: tuple[Explained, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def figure(self) -> Image.Image:
        return figure(self.items)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one panel: a row a photo, a column a method."""
        save_image(self.figure(), path)


def explain(
    model: Model,
    images: Picture | Sequence[Picture],
    methods: str | Sequence[str] | None = None,
    *,
    target: int | str = "top",
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Explanations:
    """Explain photos with one or several methods ("saliency,guided-backprop" or a list).

    images: files, Pillow images or arrays of pixels, (H, W, 3) of integers from 0 to 255; one, or a list of them.
    target: "top" (each photo's own top class), a class index, or a class name of the labels. Everything else
    as `compile`. An emitted file may stand for the model: then its own method is used. Saliency by default.
    Raises ImageError, TargetError and what `compile` raises.
    """
    vet_arguments(preprocessing=preprocessing, labels=labels, target=target, shapes=options.get("shapes"))
    pictures = _given(images)
    vetting = {key: options.pop(key) for key in VETTING if key in options}
    source = load_source(model, **vetting)
    if methods is None:
        methods = read_card(source.model).method if is_explanation(source.model) else "saliency"
    names = _names(methods)
    about = description(model, source.model, preprocessing, labels, options.get("shapes"))
    if about is None:
        raise ModelError("the model's input is not a picture; in Python: onnxplain.compile(...)(array)")
    if not pictures or not names:
        raise OptionError("nothing to explain: give at least one picture and one method")
    load_onnxruntime()  # without it nothing can be explained: said before anything is compiled
    chosen = -1 if target == "top" else class_index(target, about.labels)
    prepared = [_prepared(picture, about) for picture in pictures]
    found: list[list[Explained]] = [[] for _ in prepared]
    tell = progress or (lambda text: None)
    shared = {key: value for key, value in options.items() if key not in COMPILE}
    common = {key: value for key, value in options.items() if key in COMPILE}
    for name in names:
        tell(f"compiling {name}")
        own = shared
        if len(names) > 1:
            own = for_method(find(name), shared, {other: find(other) for other in names})
        explainer = _explainer(source, name, about, {**common, **own})
        for i, (array, shown) in enumerate(prepared):
            tell(f"{name}: photo {i + 1} of {len(prepared)}")
            found[i].append(run_one(explainer, array, shown, chosen, about))
    return Explanations(tuple(item for row in found for item in row))


def _given(images: Picture | Sequence[Picture]) -> list[Picture]:
    if images is None:
        raise OptionError("images is None; give a picture, its path, its pixels, or a list of them")
    return opened_all(images)


def _names(methods: str | Sequence[str]) -> list[str]:
    """OptionError for methods that draw their maps from changed copies of the image."""
    names = [name.strip() for name in methods.split(",")] if isinstance(methods, str) else list(methods)
    refuse_techniques(names)
    return names


def _explainer(source: Source, name: str, about: Description, options: dict[str, Any]) -> Explainer:
    """Compile; a file that is an explanation already is used as it is."""
    if not is_explanation(source.model):
        if not find(name).maps:
            where = "`onnxplain scope`" if find(name).family == "linearscope" else "onnxplain.compile"
            raise OptionError(f"{name} gives no map to draw; see {where}")
        given = {**options, "preprocessing": about.preprocessing.to_record(), "labels": about.labels}
        return compile(source, name, target="input", **given)
    card = read_card(source.model)
    if card.method != name:
        raise OptionError(f"this file explains by {card.method}, not {name}; give the model it was made from")
    if not any(output.split("/")[0] == ATTRIBUTION for output in card.outputs):
        raise OptionError(f"this file, of {name}, gives no map to draw; see `onnxplain show`")
    free = {"providers", "threads", "memory", "cache"}
    asked = [key for key, value in options.items() if key not in free and value is not None]
    if options.get("head") == "logits":  # the default of the command line
        asked.remove("head")
    if asked:
        raise OptionError(
            f"this file is compiled already and cannot change {', '.join(asked)}; give the model it was made from"
        )
    return Explainer(
        source.model,
        card,
        providers=options.get("providers"),
        threads=options.get("threads"),
        path=source.path,
        memory=options.get("memory"),
        cache=options.get("cache"),
    )


def _prepared(picture: Picture, about: Description) -> tuple[Array, Image.Image]:
    return prepare(opened(picture), about.preprocessing)


def class_index(target: int | str, labels: Sequence[str] | None) -> int:
    """A class from its index, or from its name among the labels (any case). Raises TargetError."""
    try:
        return int(target)
    except ValueError:
        word = str(target).lower()
    names = [name.lower() for name in labels or ()]
    found = [i for i, name in enumerate(names) if name == word]
    if len(found) > 1:  # ImageNet has two cranes; of names that differ in case alone the exact one is meant
        exact = [i for i in found if labels is not None and labels[i] == target]
        if len(exact) != 1:
            raise TargetError(
                f"{target!r} is the name of classes {', '.join(map(str, found))}; give the index"
            )
        return exact[0]
    if found:
        return found[0]
    raise TargetError(
        f"no class is called {target!r}{nearest(word, names)}; "
        "give an index, 'top', or a name of the model's labels"
    )


def run_one(
    explainer: Explainer, array: Array, shown: Image.Image, target: int, about: Description
) -> Explained:
    result = explainer(array, target=target)
    aim = explainer.card.target
    attribution = result.attribution
    if attribution.ndim != 4:
        raise ImageError(f"the attribution has {attribution.ndim} axes; only pictures can be drawn")
    if not shows_values(aim):
        index, name, score = target, f"{aim['head']}[{'top' if target < 0 else target}]", float("nan")
    else:
        output = result.outputs[aim["output"]]
        index = int(np.argmax(output)) if target < 0 else target
        name, score = _caption(output, index, aim, about.labels)
    note = "; ".join(map(str, result.findings))
    return Explained(shown, explainer.card.method, attribution, index, name, score, about, note)


def shows_values(aim: Mapping[str, Any]) -> bool:
    """Whether the file gives out the values that it explains: not those of an inner tensor. aim: the card's target."""
    return aim["head"] == aim["output"] or aim.get("squash") is not None


def _caption(
    output: Array, index: int, aim: Mapping[str, Any], labels: Sequence[str] | None
) -> tuple[str, float]:
    """Of an element of the output of one picture."""
    flat, places = output.ravel().astype(np.float64), places_of(output, aim)
    if len(places) > 1:  # several values a channel: no classifier
        place = np.unravel_index(index, places)
        return f"{aim['output']}[{', '.join(str(int(i)) for i in place)}]", float(flat[index])
    alone = flat.size == 1 and labels is None
    name = labels[index] if labels is not None and index < len(labels) else f"class {index}"
    return str(aim["output"]) if alone else name, float(probabilities(flat, aim.get("squash"))[index])


def places_of(output: Array, aim: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the output of one picture without its samples: (classes,) of a classifier, and of a single number.
    aim: the card's target."""
    located = aim.get("rows") or {}
    axis = located.get("axis", 0)
    places = tuple(size for i, size in enumerate(output.shape) if i != axis)
    if located.get("each", 1) != 1:  # an axis that holds more than the sample
        places = tuple(output.shape)
    one = output.size == (places[0] if places else 1)
    return (output.size,) if one else places


def probabilities(values: Array, squash: str | None) -> Array:
    """Of the output of a classifier: squash is the operator at its end, as far as the card knows. A single number, a
    regression or a binary logit, is what it is."""
    if squash == "LogSoftmax":
        return np.asarray(np.exp(values))
    # With head="prob" the card names no operator; values that add up to 1 are probabilities already. 1e-3
    # allows for float16.
    known = squash is not None or values.size == 1
    if known or (values.min() >= 0.0 and abs(values.sum() - 1.0) < 1e-3):
        return values
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def display_of(method: str) -> str:
    """How the papers of a method show its maps (`Method.display`)."""
    try:
        return find(method).display
    except OptionError:  # a file from a package that is not installed here
        return "maxabs"


def cell(item: Explained) -> Cell:
    """The picture of a method, by the readout its papers show, with the note under it. What is not finite is shown as
    0."""
    if not np.isfinite(item.attribution).all():
        item = replace(item, attribution=np.nan_to_num(item.attribution, nan=0.0, posinf=0.0, neginf=0.0))
    return replace(_drawn(item), note=item.note)


def _drawn(item: Explained) -> Cell:
    display = display_of(item.method)
    layout, color = item.about.preprocessing.layout, item.about.preprocessing.color
    if display == "centre":
        return Cell(item.method, back_projection(item.attribution, layout=layout, color=color))
    if display == "sum,sym":
        return Cell(item.method, signed(readout("sum", item.attribution, layout)[0]), "signed")
    if display == "sym":
        return Cell(
            item.method, signed(item.attribution[0].mean(axis=-1 if layout == "NHWC" else 0)), "signed"
        )
    heat = readout("maxabs", item.attribution, layout)[0]
    if display == "max":  # a smooth map with no outliers to clip
        return Cell(item.method, overlay(item.image, heat, alpha=0.5, percentile=100.0), "jet")
    return Cell(item.method, overlay(item.image, heat, alpha=0.75), "jet")


def caption(item: Explained, digits: int) -> str:
    """The class and its score, where it has one."""
    return item.label if np.isnan(item.score) else f"{item.label}  {item.score:.{digits}f}"


def figure(items: Sequence[Explained], title: str | None = None) -> Image.Image:
    """A row a photo, a column a method."""
    rows: list[tuple[Explained, list[Cell]]] = []
    for item in items:
        if rows and rows[-1][0].image is item.image:
            rows[-1][1].append(cell(item))
        else:
            rows.append((item, [cell(item)]))
    return panel([Row(first.image, caption(first, 2), cells) for first, cells in rows], title)
