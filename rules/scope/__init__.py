"""LinearScope (Navarrete et al.): a network frozen at x0 is an affine system, y = F(x0) x + r(x0)."""

from .freeze import freeze

__all__ = ["freeze"]
