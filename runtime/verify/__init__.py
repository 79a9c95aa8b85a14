"""Does an emitted file keep what its method promises? Checks by number, and a certificate in the file."""

from .certificate import Certificate, store
from .nodes import Adjointness, Balance, adjointness, balances
from .outcome import Check, NotApplicable, Outcome, Status, check
from .table import CHECKS
from .verifying import verify

__all__ = [
    "CHECKS",
    "Adjointness",
    "Balance",
    "Certificate",
    "Check",
    "NotApplicable",
    "Outcome",
    "Status",
    "adjointness",
    "balances",
    "check",
    "store",
    "verify",
]
