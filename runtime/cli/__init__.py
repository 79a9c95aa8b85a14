"""The command line: `onnxplain compile explain check show methods demo`."""

from .main import main

__all__ = ["main"]
