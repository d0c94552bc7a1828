"""Runs in a process of its own, without Farspan: loads exported checkpoints and compares them with stored outputs.

Usage: `python load_and_compare.py FOLDER`; each folder inside holds a checkpoint and `expected.pt`. One JSON line a
checkpoint is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = torch.load(folder / "expected.pt")
    with torch.no_grad():
        errors = [
            float((model(input_ids=ids).logits - logits).abs().max())
            for ids, logits in zip(expected["ids"], expected["logits"], strict=True)
        ]
        generated = model.generate(expected["prompt"], max_new_tokens=expected["new_tokens"], do_sample=False)
    row = {
        "name": folder.name,
        "errors": errors,
        "same_text": torch.equal(generated, expected["generated"]),
        "rope_parameters": model.config.get_text_config().rope_parameters,
        "window": model.config.get_text_config().max_position_embeddings,
        "record": model.config.get_text_config().farspan,
    }
    print(json.dumps(row))
assert "farspan" not in sys.modules
