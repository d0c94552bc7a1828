"""Benchmark families, one file each, and the one table that names them.

Importing this package loads no family; a name is resolved when it is asked for.
"""

from __future__ import annotations

TASKS: dict[str, str] = {
    "needle_threading": "farspan.evals.tasks.needle_threading:NeedleThreading",
    "lines": "farspan.evals.tasks.lines:Lines",
    "ruler": "farspan.evals.tasks.ruler:Ruler",
    "longbiobench": "farspan.evals.tasks.longbiobench:LongBioBench",
    "holobench": "farspan.evals.tasks.holobench:HoloBench",
}

__all__ = ["TASKS"]
