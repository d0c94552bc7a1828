"""The published HoloBench data, where the user has a copy: tables and queries as CSV, contexts in the published way.

Nothing is downloaded. A folder holds `queries/<database>.csv` and `<database>/<table>.csv` (or the same under `data/`).

Source: arXiv 2410.11996, section 3.
"""

from __future__ import annotations

import ast
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from farspan.errors import FarspanError
from farspan.evals.rows import RowError
from farspan.evals.schema import LongSample
from farspan.evals.tasks.holo_context import Line, load_context

LENGTHS = (4096, 8192, 16384, 32768, 65536)
INFO_AMOUNT = 2048
OFFICIAL_TOKENS = 2048
TYPES = {
    "comparison": "Comparison",
    "aggregation": "Aggregation",
    "max_min": "Max/Min",
    "join": "Join",
    "ranking": "Ranking",
}
SPELLINGS = {"scoccer_1": "soccer_1"}
"""Names of splits that an early revision misspelt."""

HEADER = "Below are statements, one a line. A question about them follows.\n"


def read_holobench(
    data: str | Path,
    task: str,
    lengths: tuple[int, ...] = LENGTHS,
    *,
    info_amount: int = INFO_AMOUNT,
    info_density: float = 1.0,
    merge_strategy: str = "uniform",
    official: bool = True,
) -> Iterator[LongSample]:
    """Samples of the published queries of a type and difficulty, at every length.

    Parameters
    ----------
    task : such as `join_easy`
    lengths, info_amount, info_density, merge_strategy, official : see `holo_context.load_context`

    Raises
    ------
    RowError : files are missing, or lack a column.
    """
    kind, _, difficulty = task.rpartition("_")
    folder = _root(Path(data))
    tables: dict[str, dict[str, list[Line]]] = {}
    for number, row in enumerate(_queries(folder)):
        if row["difficulty"].lower() != difficulty or not _is_of(row, TYPES[kind]):
            continue
        database = row["db_id"]
        if database not in tables:
            tables[database] = read_tables(folder, database)
        for length in lengths:
            found = load_context(
                row["query"],
                tables[database],
                length,
                info_density=info_density,
                info_amount=info_amount,
                merge_strategy=merge_strategy,
                official=official,
            )
            columns = list(found.gold_rows[0]) if found.gold_rows else []
            yield LongSample(
                id=f"holobench/{task}/{database}/{length}/{number}",
                benchmark="holobench",
                task=task,
                context=f"{HEADER}{found.text}\n",
                question=f'Question: {row["question"]} Use the statements alone; without an answer say "No answer.".\n',
                answers=[str(dict(gold)) for gold in found.gold_rows] or ["No answer."],
                answer_kind="ordered" if kind == "ranking" else "set",
                answer_prefix="Answer:",
                max_new_tokens=OFFICIAL_TOKENS,
                metadata={
                    "length": length,
                    "length_unit": "tokens",
                    "depth": None,
                    "task": task,
                    "language": "en",
                    "database": database,
                    "type": kind,
                    "difficulty": difficulty,
                    "position": merge_strategy,
                    "info": found.n_main_tokens,
                    "info_asked": str(info_amount) if info_amount > 0 else f"{info_density:.0%}",
                    "query": row["query"],
                    "columns": columns,
                    "gold_rows": [dict(gold) for gold in found.gold_rows],
                    "empty": not found.gold_rows,
                    "exhausted": found.exhausted,
                    "ordered": kind == "ranking",
                    "shared_context_key": "",
                    "evidence_spans": [],
                    "answer_mark": "Answer:",
                    "instruction": 'First reason on the statements, then give the answer behind the word "Answer:".',
                    "comparability": "official",
                    "raw": dict(row),
                },
            )


def read_tables(folder: Path, database: str) -> dict[str, list[Line]]:
    """The tables of a database, in the order of their names."""
    found = sorted((folder / database).glob("*.csv"))
    if not found:
        raise RowError(f"no tables of '{database}': {folder / database} holds no CSV files")
    return {
        path.stem: [
            Line.read(row["verbalized_text"], row["table_row"]) for row in _rows(path, "verbalized_text", "table_row")
        ]
        for path in found
    }


def _root(data: Path) -> Path:
    for folder in (data, data / "data"):
        if (folder / "queries").is_dir():
            return folder
    raise RowError(f"{data} is no copy of the published data: it has no folder 'queries'")


def _queries(folder: Path) -> Iterator[dict[str, str]]:
    files = sorted((folder / "queries").glob("*.csv"))
    if not files:
        raise RowError(f"{folder / 'queries'} holds no CSV files")
    for path in files:
        for row in _rows(path, "question", "query", "db_id", "difficulty"):
            row["db_id"] = SPELLINGS.get(row["db_id"], row["db_id"])
            if not (folder / row["db_id"]).is_dir():
                row["db_id"] = SPELLINGS.get(path.stem, path.stem)
            yield row


def _rows(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise RowError(f"{path} has no column '{missing[0]}', only: {', '.join(reader.fieldnames or ())}")
            for row in reader:
                yield {str(name): value or "" for name, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RowError(f"cannot read {path}: {error}") from error


def _is_of(row: dict[str, str], kind: str) -> bool:
    """Whether a query is of a type, by its flag or by the list of its types."""
    if row.get(kind):
        return row[kind].strip().lower() in ("true", "1")
    try:
        listed = ast.literal_eval(row.get("query_type", "[]"))
    except (ValueError, SyntaxError) as error:
        raise FarspanError(f"query_type must be a list of names, not {row.get('query_type')!r}") from error
    return kind in listed
