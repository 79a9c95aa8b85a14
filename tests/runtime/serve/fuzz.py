"""Requests made up from a server's OpenAPI document, in a process of its own: onnxruntime, as sessions are opened here,
treats subnormal numbers as 0 for the whole thread, and hypothesis refuses to make up numbers there.

python fuzz.py URL EXAMPLES: prints the number of operations tried; exits with 1 and the failure at the first one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

CHECKS = ("content_type_conformance", "response_schema_conformance", "status_code_conformance")


def main(url: str, examples: int) -> None:
    # By name: neither is installed where types are checked.
    schemathesis, hypothesis = import_module("schemathesis"), import_module("hypothesis")
    conformance = import_module("schemathesis.specs.openapi.checks")
    checks = [import_module("schemathesis.checks").not_a_server_error]
    checks += [getattr(conformance, name) for name in CHECKS]
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    tried = 0
    for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():

        def check(case: Any) -> None:
            case.call_and_validate(checks=checks)

        hypothesis.given(case=result.ok().as_strategy())(settings(check))()
        tried += 1
    print(tried)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
