"""Benchmark families, one file each, and the one table that names them.

Importing this package loads no family; a name is resolved when it is asked for.
"""

from __future__ import annotations

TASKS: dict[str, str] = {
    "needle_threading": "farspan.evals.tasks.needle_threading:NeedleThreading",
    "lines": "farspan.evals.tasks.lines:Lines",
    "ruler": "farspan.evals.tasks.ruler:Ruler",
    "wikiqa": "farspan.evals.tasks.wikiqa:WikiQA",
    "longbiobench": "farspan.evals.tasks.longbiobench:LongBioBench",
    "holobench": "farspan.evals.tasks.holobench:HoloBench",
    "graph_tracing": "farspan.evals.tasks.graph_tracing:GraphTracing",
    "longins": "farspan.evals.tasks.longins:LongIns",
    "longgenbench": "farspan.evals.tasks.longgenbench:LongGenBench",
}

DOCUMENTS: dict[str, str] = {
    "longbench": "farspan.evals.tasks.longbench:LongBench",
    "longbench_v2": "farspan.evals.tasks.longbench_v2:LongBenchV2",
    "longbench_pro": "farspan.evals.tasks.longbench_pro:LongBenchPro",
    "l_eval": "farspan.evals.tasks.l_eval:LEval",
    "lv_eval": "farspan.evals.tasks.lv_eval:LVEval",
    "loogle": "farspan.evals.tasks.loogle:LooGLE",
    "own_levels": "farspan.evals.tasks.own_levels:OwnLevels",
    "cnnsum": "farspan.evals.tasks.cnnsum:CNNSum",
}
"""Document benchmarks, whose questions are published and not generated; see `farspan.evals.documents`."""

__all__ = ["DOCUMENTS", "TASKS"]
