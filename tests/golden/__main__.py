"""`python -m tests.golden PATH...` checks golden files and prints `N passed, M failed` last.

Paths are files or folders; without any, the golden files of this repository. Exit code 1 if anything failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.golden.checker import check_file, golden_files


def main(arguments: list[str]) -> int:
    """Check, print a line per failure and the totals; the exit code."""
    passed = failed = 0
    for file in golden_files(arguments or [Path(__file__).parent]):
        for outcome in check_file(file):
            if outcome.problem:
                failed += 1
                print(f"FAILED {outcome.file} {outcome.case}: {outcome.problem}", flush=True)
            else:
                passed += 1
    if passed + failed == 0:
        print("no golden case found", file=sys.stderr)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
