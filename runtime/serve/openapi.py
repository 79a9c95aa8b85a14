"""The OpenAPI document of exactly the addresses that the server has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..compiling import package_version

Schema: TypeAlias = dict[str, object]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
DATATYPES = (
    "BOOL",
    *(f"{s}INT{n}" for s in ("", "U") for n in (8, 16, 32, 64)),
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
)


def document(models: Sequence[str], keys: bool) -> Schema:
    """models: the names that addresses may hold. keys: whether an API key is asked for."""
    paths: dict[str, Schema] = {
        "/v2/health/live": {
            "get": _operation("live", "The server runs.", {"200": _empty("it does")}, open_=True)
        },
        "/v2/health/ready": {"get": _operation("ready", "Ready for requests.", _ready(), open_=True)},
        "/v2": {"get": _operation("server", "Name, version and extensions.", _ok("Server"))},
        "/v2/models/stats": {"get": _operation("all_stats", "Statistics of all models.", _ok("Statistics"))},
        "/v2/repository/index": {"post": _operation("index", "The models.", _ok("Index"))},
        "/openapi.json": {"get": _operation("description", "This document.", _ok("Document"))},
        "/metrics": {
            "get": _operation("expose", "Metrics for Prometheus.", {"200": _content("text/plain", TEXT)})
        },
    }
    version = {"name": "version", "in": "path", "required": True, "schema": {"const": "1", "type": "string"}}
    for prefix, more in (("/v2/models/{name}", []), ("/v2/models/{name}/versions/{version}", [version])):
        for ending, item in _of_model("_of_version" if more else "").items():
            paths[prefix + ending] = {"parameters": [_model(models), *more], **item}
    security: Schema = {"security": [{"bearer": []}, {"header": []}]} if keys else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "onnxplain",
            "version": package_version(),
            "description": "Open Inference Protocol v2 with explanations.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), **({"securitySchemes": _schemes()} if keys else {})},
        **security,
    }


def _model(models: Sequence[str]) -> Schema:
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(models)},
    }


def _of_model(ending: str) -> dict[str, Schema]:
    return {
        "": {"get": _operation(f"model{ending}", "Inputs and outputs.", _ok("Model"))},
        "/ready": {"get": _operation(f"model_ready{ending}", "Ready for requests.", _ready())},
        "/config": {"get": _operation(f"model_config{ending}", "Its configuration.", _ok("Config"))},
        "/stats": {"get": _operation(f"model_stats{ending}", "Its statistics.", _ok("Statistics"))},
        "/infer": {"post": _infer(ending)},
        "/explain": {"post": _explain(ending)},
    }


def _infer(ending: str) -> Schema:
    binary = {"schema": {"type": "string", "format": "binary"}}
    answers = {
        "200": {
            "description": "the outputs",
            "headers": {
                "Inference-Header-Content-Length": {
                    "description": "bytes of the JSON, where bytes of tensors follow it",
                    "schema": WHOLE,
                }
            },
            "content": {"application/json": {"schema": _ref("Answer")}, "application/octet-stream": binary},
        },
        **_limits(),
    }
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "bytes of the JSON at the start of the body; the bytes of tensors follow",
        "schema": {"type": "integer", "minimum": 0},
    }
    body = {
        "required": True,
        "content": {"application/json": {"schema": _ref("Request")}, "application/octet-stream": binary},
    }
    made = _operation(f"infer{ending}", "Run the model.", answers)
    return {**made, "parameters": [length], "requestBody": body}


def _explain(ending: str) -> Schema:
    picture = {"schema": {"type": "string", "format": "binary"}}
    answers = {
        "200": {
            "description": "the top classes and the map, or the map drawn over the picture",
            "content": {"application/json": {"schema": _ref("Explanation")}, "image/png": picture},
        },
        **_limits(),
        "406": _error("neither application/json nor image/png is accepted"),
    }
    wish = {
        "name": "class",
        "in": "query",
        "required": False,
        "description": "an index, a name of the model's labels, or top",
        "schema": {"type": "string", "default": "top"},
    }
    body = {"required": True, "content": {"image/jpeg": picture, "image/png": picture}}
    made = _operation(f"explain{ending}", "Explain a picture.", answers)
    return {**made, "parameters": [wish], "requestBody": body}


def _operation(name: str, summary: str, answers: Schema, open_: bool = False) -> Schema:
    """open_: asked without a key."""
    others = {} if open_ else {"401": _error("no API key, where there is one")}
    free: Schema = {"security": []} if open_ else {}
    return {"operationId": name, "summary": summary, "responses": {**answers, **others, **_always()}, **free}


def _always() -> Schema:
    return {"default": _error("anything else that went wrong")}


def _limits() -> Schema:
    told = {
        "400": "the request does not fit the model",
        "404": "no such model or version",
        "408": "the body did not come in time",
        "413": "the body is too large",
        "415": "the content coding is not known",
        "503": "the server is busy",
        "504": "not done at the deadline",
    }
    return {status: _error(what) for status, what in told.items()}


def _ready() -> Schema:
    return {
        "200": _empty("it is"),
        "404": _error("no such model or version"),
        "503": _error("the server is stopping"),
    }


def _ok(schema: str) -> Schema:
    return {
        "200": _content("application/json", _ref(schema)),
        "404": _error("no such model or version"),
    }


def _content(media: str, schema: Schema) -> Schema:
    return {"description": "the answer", "content": {media: {"schema": schema}}}


def _empty(what: str) -> Schema:
    return {"description": what}


def _error(what: str) -> Schema:
    return {"description": what, "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _schemas() -> Schema:
    sizes = _list({"type": "integer", "minimum": -1})
    declared = _object(
        ["name", "datatype", "shape"], name=TEXT, datatype={"enum": list(DATATYPES)}, shape=sizes
    )
    models = _list(_object(["name", "version", "inference_stats"], name=TEXT, version=TEXT))
    score = _object(["index", "label", "score"], index=WHOLE)
    return {
        "Error": _object(["error"], error=TEXT),
        "Server": _object(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_list(TEXT)),
        "Index": _list(
            _object(["name", "version", "state"], name=TEXT, version=TEXT, state={"const": "READY"})
        ),
        "Document": _object(["openapi", "paths"], openapi=TEXT),
        "Statistics": _object(["model_stats"], model_stats=models),
        "Model": _object(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=TEXT,
            versions=_list(TEXT),
            platform=TEXT,
            inputs=_list(declared),
            outputs=_list(declared),
        ),
        "Config": _object(["name", "max_batch_size", "input", "output"], name=TEXT, max_batch_size=WHOLE),
        "Request": _request(),
        "Answer": _object(
            ["model_name", "model_version", "outputs"],
            model_name=TEXT,
            model_version=TEXT,
            id=TEXT,
            outputs=_list(declared),
        ),
        "Explanation": _object(
            ["model_name", "method", "class", "classes", "readout", "map"],
            **dict.fromkeys(("method", "warning"), TEXT),
            classes=_list(score),
            map=declared,
            **{"class": score},
        ),
    }


def _request() -> Schema:
    parameters: Schema = {"type": "object"}
    shape = _list({"type": "integer", "minimum": 1})
    tensor = _object(
        ["name", "datatype", "shape"],
        name=TEXT,
        datatype={"enum": list(DATATYPES)},
        shape=shape,
        data={"type": "array"},
        parameters=parameters,
    )
    wanted = _object(["name"], name=TEXT, parameters=parameters)
    return _object(["inputs"], id=TEXT, inputs=_list(tensor), outputs=_list(wanted), parameters=parameters)


def _schemes() -> Schema:
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
