"""What multimodal positions cost: building them for long videos, turning by them, and reading a long video in pieces.

Measured on the first GPU, else on the CPU. Weights are random; only shapes and times matter. The shape is that of
Qwen2-VL 7B unless made smaller; positions are built for 3000 frames in any case. Results go to
`benchmarks/results/video_positions.json`.

    python benchmarks/video_positions.py
    python benchmarks/video_positions.py --layers 2 --hidden 896 --frames 32 --long-frames 96 --repeats 3 --threads 1
    python benchmarks/video_positions.py --small --out /dev/stdout
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, PreTrainedModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from farspan.positions import Hope, mrope_positions

CPU = platform.processor() or platform.machine()
IMAGE, VIDEO = 151655, 151656
TOKENS = {"spatial_merge_size": 2, "image_token_id": IMAGE, "video_token_id": VIDEO}


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of several runs after one that does not count."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(repeats))


def video_ids(grid: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Eight tokens of text, a video, eight more."""
    tokens = grid[0] * grid[1] * grid[2] // 4
    return torch.tensor([[1] * 8 + [VIDEO] * tokens + [2] * 8], device=device)


def model_of(layers: int, hidden: int, intermediate: int, heads: int, device: torch.device) -> PreTrainedModel:
    """The language model of Qwen2-VL 7B unless made smaller, with a vision tower of one layer."""
    head_dim = hidden // heads
    time_pairs = head_dim // 8
    text = {
        "vocab_size": 152064,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 7),
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [time_pairs, (head_dim // 2 - time_pairs) // 2, (head_dim // 2 - time_pairs) // 2],
        },
    }
    vision = {"depth": 1, "embed_dim": 64, "hidden_size": hidden, "num_heads": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype)
    return model.eval()


@torch.inference_mode()
def read(model: PreTrainedModel, ids: torch.Tensor, grid: tuple[int, int, int], chunk: int) -> DynamicCache:
    """Positions, then the language model over the whole sequence, `chunk` tokens at once."""
    inner = model.model
    positions, _ = inner.get_rope_index(
        ids, mm_token_type_ids=2 * (ids == VIDEO).int(), video_grid_thw=torch.tensor([grid], device=ids.device)
    )
    cache = DynamicCache(config=model.config.text_config)
    for start in range(0, ids.shape[1], chunk):
        end = start + chunk
        embeds = inner.language_model.embed_tokens(ids[:, start:end])
        inner.language_model(
            inputs_embeds=embeds, position_ids=positions[..., start:end], past_key_values=cache, use_cache=True
        )
    return cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "video_positions.json")
    parser.add_argument("--small", action="store_true", help="a second's work, to see that it runs")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=3584, help="width, in heads of 128 channels")
    parser.add_argument("--frames", type=int, default=128, help="frames whose reading is timed, at 144 tokens each")
    parser.add_argument("--long-frames", type=int, default=3000, help="frames read once, in pieces")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, object] = {}

    frames = 30 if given.small else 3000
    grid = (frames, 18, 32)
    ids = video_ids(grid, torch.device("cpu"))
    found["building_seconds"] = seconds_of(
        lambda: mrope_positions(ids, None, None, [grid], **TOKENS, temporal_scale=0.75), ids.device, given.repeats
    )
    found["building_tokens"] = ids.shape[1]

    shape = (given.layers, given.hidden, round(given.hidden * 18944 / 3584), given.hidden // 128)
    shape = (2, 256, 256, 4) if given.small else shape
    model = model_of(*shape, device)
    grid = (4 if given.small else given.frames, 18, 32)
    ids = video_ids(grid, device)
    lever = Hope(inference_scale=0.75)
    prefill = seconds_of(lambda: read(model, ids, grid, ids.shape[1]), device, given.repeats)
    with lever(model), torch.inference_mode():
        rotary = model.model.language_model.rotary_emb
        x = torch.zeros(1, 1, shape[1], dtype=model.dtype, device=device)

        def positions_and_angles() -> None:
            positions, _ = model.model.get_rope_index(ids, video_grid_thw=[grid])
            rotary(x, positions)

        ours = seconds_of(positions_and_angles, device, given.repeats)
    found |= {
        "prefill_tokens": ids.shape[1],
        "prefill_seconds": prefill,
        "positions_and_angles_seconds": ours,
        "share_of_prefill": ours / prefill,
    }

    grid = (frames if given.small else given.long_frames, 18, 32)
    ids = video_ids(grid, device)
    with lever(model):
        start = time.perf_counter()
        cache = read(model, ids, grid, 2048)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            found["long_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        found |= {
            "long_tokens": ids.shape[1],
            "long_seconds": time.perf_counter() - start,
            "long_cache_gib": sum(
                layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None
            )
            / 2**30,
        }

    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else CPU,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "shape": dict(zip(("layers", "hidden", "intermediate", "heads"), shape, strict=True)),
        **found,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
