"""Opset floor: the compiler knows the operators as opset 18 and later define them."""

from .lifting import FLOOR, IR_VERSION, lift

__all__ = ["FLOOR", "IR_VERSION", "lift"]
