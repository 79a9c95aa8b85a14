"""What explanations cost on a user's own model and machine: time, memory, files, and floors of them."""

from .machine import Machine, probe
from .measure import bench
from .report import Report, Row
from .timing import Spread

__all__ = ["Machine", "Report", "Row", "Spread", "bench", "probe"]
