"""What the server says about a model: metadata and configuration, in the protocol's words."""

from __future__ import annotations

from .datatypes import Tensor
from .served import Served
from .settings import Settings

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")


def metadata(served: Served) -> dict[str, object]:
    """parameters: of an explanation file its method, target and options."""
    told: dict[str, object] = {
        "name": served.name,
        "versions": [served.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_entry(tensor) for tensor in served.inputs.values()],
        "outputs": [_entry(tensor) for tensor in served.outputs.values()],
    }
    if served.card is not None:
        told["parameters"] = {
            "method": served.card.method,
            "target": served.card.target.get("target"),
            "optional_inputs": [tensor.name for tensor in served.inputs.values() if tensor.optional],
        }
    return told


def _entry(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.sizes}


def config(served: Served, settings: Settings) -> dict[str, object]:
    """A model configuration as tools of the protocol read it. Shapes are without the first axis where the model
    takes any number of rows: max_batch_size then says how many, and is 0 otherwise."""
    batch = served.rows_free
    joined = bool(settings.batching) and served.joinable
    delay = (
        {"dynamic_batching": {"max_queue_delay_microseconds": round(settings.batching * 1e6)}}
        if joined
        else {}
    )
    return {
        "name": served.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": settings.max_batch if batch else 0,
        "input": [
            {**_typed(tensor, batch), "optional": tensor.optional} for tensor in served.inputs.values()
        ],
        "output": [_typed(tensor, batch) for tensor in served.outputs.values()],
        "instance_group": [{"name": served.name, "kind": "KIND_AUTO", "count": settings.workers}],
        **delay,
    }


def _typed(tensor: Tensor, batch: bool) -> dict[str, object]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{kind}",
        "dims": tensor.sizes[1:] if batch else tensor.sizes,
    }
