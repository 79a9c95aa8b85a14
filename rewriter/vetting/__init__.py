"""What a model file may hold, looked at once, when it is loaded: whoever reads the model later may rely on it.

text: UTF-8. form: graphs, names, numbers of nodes. tensors: known types, data that fill the shape, sizes that can be
counted. values: types and shapes of what is declared. nodes: attributes and operands as the operator's schema has them.
"""

from __future__ import annotations

from .form import vet_domains, vet_form
from .nodes import vet_nodes
from .tensors import vet_tensors
from .text import vet_text
from .values import vet_values
from .walk import all_nodes, all_tensors

__all__ = [
    "all_nodes",
    "all_tensors",
    "vet_domains",
    "vet_form",
    "vet_nodes",
    "vet_tensors",
    "vet_text",
    "vet_values",
]
