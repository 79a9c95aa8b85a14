"""A server for explanation files and plain ONNX models: Open Inference Protocol v2 over HTTP.

`Serving` (serving.py) is the whole. Only what it imports needs starlette and uvicorn, the extra `serve`.
"""

from .refusal import Refusal
from .served import Served, open_models
from .settings import Settings, parse_seconds

__all__ = ["Refusal", "Served", "Settings", "open_models", "parse_seconds"]
