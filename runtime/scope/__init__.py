"""LinearScope on the host: the interpreter as a linear operator, its singular values, contributions and figures."""

from .contributions import Contributions
from .interpreter import Interpreter
from .svd import Overdriven, Svd
from .votes import Votes

__all__ = ["Contributions", "Interpreter", "Overdriven", "Svd", "Votes"]
