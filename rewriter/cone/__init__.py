"""The cone of a window: only what a change of some pixels reaches is computed again."""

from .emit import Cone, compile_cone

__all__ = ["Cone", "compile_cone"]
