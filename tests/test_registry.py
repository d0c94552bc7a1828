"""What Inspect finds of Farspan, and what it costs to look."""

from __future__ import annotations

import subprocess
import sys

import pytest

from farspan.evals.tasks import TASKS

LOOK = """
import sys, time
import inspect_ai, inspect_ai.dataset, inspect_ai.model, inspect_ai.scorer, inspect_ai.solver
start = time.perf_counter()
import farspan._registry
seconds = time.perf_counter() - start
from inspect_ai._util.registry import registry_find
found = registry_find(lambda info: info.name.startswith("farspan/"))
names = sorted({entry.__registry_info__.name for entry in found})
print(seconds, [name for name in ("torch", "transformers") if name in sys.modules], *names, sep="\\n")
"""


def look() -> list[str]:
    found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    return found.stdout.splitlines()


def test_every_family_and_the_provider_are_registered_without_torch() -> None:
    _, heavy, *names = look()
    assert heavy == "[]"
    others = ("farspan", "icr_ranking", "long_context", "long_context_score", "rank_in_context", "ranking_score")
    assert {f"farspan/{name}" for name in (*TASKS, *others)} <= set(names)


@pytest.mark.timing
def test_looking_adds_little_to_what_inspect_itself_takes() -> None:
    assert min(float(look()[0]) for _ in range(3)) < 0.8
