"""Model-local functions become plain nodes."""

from __future__ import annotations

from onnx import inliner

from ..draft import Draft


def inline(draft: Draft) -> None:
    """Inline every function the model defines, so that rules meet operators only."""
    if draft.model.functions:
        draft.model = inliner.inline_local_functions(draft.model)
