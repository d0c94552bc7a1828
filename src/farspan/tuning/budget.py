"""The time a tune run may take, across interruptions.

The clock runs only while a process works on the run; what earlier processes used is read from the run's folder. The
clock knows nothing of what the time is spent on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path


class Budget:
    """Seconds allowed, used and left.

    Parameters
    ----------
    seconds : allowed in all
    path : file that keeps the seconds used
    """

    def __init__(self, seconds: float, path: Path) -> None:
        self.seconds = seconds
        self.path = path
        self.before = float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0
        self.start = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds used, in this process and before."""
        return self.before + time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.seconds - self.used)

    def save(self) -> None:
        """Keep the seconds used, whole or not at all."""
        neighbour = self.path.with_suffix(".tmp")
        neighbour.write_text(json.dumps({"seconds": self.used}))
        neighbour.replace(self.path)
