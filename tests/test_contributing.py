"""What CONTRIBUTING.md tells a newcomer to write really works: its files are written, its tests are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n# (?P<path>\S+\.py)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r'^```text\n"(?P<name>[\w-]+)": "(?P<place>[\w.:]+)",\n```$', re.MULTILINE)

# The guide's files and rows are put in their places from outside, since the package itself must stay as it is.
CONFTEST = """
import importlib.util
import sys

from farspan.evals.documents import DocumentBenchmark
from farspan.evals.tasks import DOCUMENTS, TASKS
from farspan.recipe import LEVERS

for name, path in {modules!r}.items():
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
for name, place in {rows!r}.items():
    module, _, attribute = place.partition(":")
    documents = issubclass(getattr(sys.modules[module], attribute), DocumentBenchmark)
    (DOCUMENTS if documents else LEVERS if ".positions." in place else TASKS)[name] = place
"""


@pytest.mark.slow
def test_the_guide_works_as_written(tmp_path: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules: dict[str, str] = {}
    for block in BLOCK.finditer(guide):
        file = tmp_path / block["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block["code"], encoding="utf-8")
        if block["path"].startswith("src/"):
            modules[block["path"].removeprefix("src/").removesuffix(".py").replace("/", ".")] = str(file)
    rows = {row["name"]: row["place"] for row in ROW.finditer(guide)}
    assert len(modules) == len(rows) == 3
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST.format(modules=modules, rows=rows), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.parametrize("action", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_the_guide_is_in_the_projects_style(action: list[str], tmp_path: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for number, block in enumerate(BLOCK.finditer(guide)):
        (tmp_path / f"block_{number}.py").write_text(block["code"], encoding="utf-8")
    ruff = Path(sys.executable).with_name("ruff")
    options = ["--config", str(ROOT / "pyproject.toml"), "--config", 'lint.isort.known-first-party = ["farspan"]']
    done = subprocess.run([ruff, *action, *options, "--no-cache", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
