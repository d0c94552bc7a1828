"""What an executor raises where it should work and does not: the automatic choice then takes another one."""

from __future__ import annotations

from farspan.errors import FarspanError


class ExecutorFailed(FarspanError):
    """An executor that takes a call and cannot be built or run on this machine."""
