"""An emitted explanation file over many pictures: shards of fixed bounds, on any executor, with the same bytes."""

from .running import Report, run

__all__ = ["Report", "run"]
