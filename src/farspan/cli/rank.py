"""`farspan rank`: order documents by how much they help to answer a query.

It reads arguments and prints; ranking is done by the engine room.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_file


class Mode(StrEnum):
    """How the model tells."""

    attention = "attention"
    decode = "decode"


def rank(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    query: Annotated[str, typer.Option(help="What the documents should help to answer.")],
    documents: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="One text a line; .jsonl: one a line.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 10,
    first_stage: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rank only the best N of bm25.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Layer whose attention ranks; the trained one.")] = None,
    mode: Annotated[Mode, typer.Option(help="Read attention, or let the model name a document.")] = Mode.attention,
    group: Annotated[int, typer.Option(min=2, help="Documents in one prompt at most.")] = 100,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write all ranks, as jsonl.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the checkpoint carries.")] = False,
) -> None:
    """Order documents by a model's attention, without decoding.

    Documents are read apart from each other, so the cost grows with their number and not with its square. A model that
    was trained to rank says so in its configuration; others rank by whatever their attention shows.

    Example:

        farspan rank reference --query "Which box holds the red key?" --documents boxes.txt
        farspan rank DIR --query "length of the warranty" --documents manual.jsonl --first-stage 100 --top-k 5
    """
    from rich.console import Console
    from rich.table import Table

    from farspan.engine.ranking import InContextRanker
    from farspan.evals.ranking import best_of_bm25
    from farspan.models import load
    from farspan.training.data.ranking import read_documents

    texts = read_documents(documents)
    file = None if out is None else output_file(out)
    number = len(texts)
    if first_stage is not None:
        texts = {name: texts[name] for name in best_of_bm25(query, texts, first_stage)}
    loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    ranker = InContextRanker(loaded, tokenizer, layer=layer, mode=mode.value, group=group)
    console = Console()
    with Console(stderr=True).status(f"ranking {len(texts)} documents"):
        ranked = ranker.rank(query, texts)
    table = Table(
        "rank", "document", "score", "text", title=f"{len(texts)} of {number} documents, layer {ranker.layer}"
    )
    for place, one in enumerate(ranked[:top_k], start=1):
        text = " ".join(texts[one.doc_id].split())
        table.add_row(str(place), one.doc_id, f"{one.score:.2f}", text if len(text) <= 60 else text[:59] + "…")
    console.print(table)
    console.print("score: log of the share of attention over an average document's; 0 is average")
    if file is not None:
        lines = [json.dumps({"doc_id": one.doc_id, "score": one.score}) + "\n" for one in ranked]
        file.write_text("".join(lines), encoding="utf-8")
