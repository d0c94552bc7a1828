"""A step of training on packed rows: document by document, beside the mask of tokens by tokens that transformers makes.

Forward and backward of the bundled model in float32 on one thread, both sides in turn, medians of the process's time.
Results go to `benchmarks/results/packed_attention.json`.

    python benchmarks/packed_attention.py
    python benchmarks/packed_attention.py --lengths 512 --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

import farspan
from farspan.training.packed_attention import packed


def step(model: PreTrainedModel, ids: torch.Tensor, places: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    started = time.process_time()
    model(input_ids=ids, position_ids=places, use_cache=False).logits.sum().backward()
    model.zero_grad()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 4096, 8192])
    parser.add_argument("--documents", type=int, default=4, help="documents a row, equally long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "packed_attention.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = farspan.load("reference")
    model.train()
    rows = []
    for length in given.lengths:
        ids = torch.randint(5, 4000, (max(1, 4096 // length), length), generator=torch.Generator().manual_seed(0))
        places = torch.arange(length // given.documents).repeat(given.documents).expand(len(ids), -1)
        masked, apart = [], []
        for round_ in range(given.rounds + 1):
            for side, times in ((nullcontext(), masked), (packed(model), apart)):
                with side:
                    taken = step(model, ids, places)
                if round_:
                    times.append(taken)
        ratio = statistics.median(masked) / statistics.median(apart)
        rows.append(
            {
                "length": length,
                "rows": len(ids),
                "masked_seconds": round(statistics.median(masked), 4),
                "document_by_document_seconds": round(statistics.median(apart), 4),
                "times_faster": round(ratio, 2),
            }
        )
    record = {
        "benchmark": "packed_attention",
        "date": datetime.now(UTC).date().isoformat(),
        "documents_a_row": given.documents,
        "rounds": given.rounds,
        "threads": 1,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "lengths": rows,
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
