"""A masked-diffusion model and an autoregressive twin beyond their window: perplexity by position, and retrieval.

Both have the same size, read the same batches of text, copies and records in the same order, and are measured on the
same held-out files and records: inside the window and beyond it, as they are and stretched by the critical dimension.
Also measured: how often the sampler with a cached prefix gives the text of the plain one, and how much faster it is.
Results go to `benchmarks/results/longllada.json`; checkpoints of the training stay in `--runs`, and an interrupted run
goes on from there.

    python benchmarks/longllada.py
    python benchmarks/longllada.py --tokens 8192 --hidden-size 32 --layers 1 --window 128 --texts 1 --samples 1 \\
        --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine import (
    CurvePoint,
    DiffusionConfig,
    Engine,
    ModelDenoiser,
    generate_masked_diffusion,
    perplexity_curve,
)
from farspan.evals.perception import fill_by_denoiser, fill_by_engine, local_perception
from farspan.evals.tasks.lines import HEADER
from farspan.models import load, reference_path, training_file
from farspan.models.masked_diffusion import MODEL_TYPE
from farspan.positions import NTKCritical
from farspan.training import TrainConfig, train
from farspan.training.data.text import TextFiles

TWINS = {"diffusion": MODEL_TYPE, "autoregressive": "llama"}
RECORDS: dict[str, object] = {
    "layouts": ["line {key}: REGISTER_CONTENT is <{value}>\n"],
    "keys": ["words", "words", "index", "capitals"],
    "values": ["number"],
    "header": HEADER,
    "question": "Question: which number does line {key} hold?\nAnswer: ",
    "bare": 0.33,
}
SOURCES = {
    "text": {"source": "farspan.training.data.text:TextFiles"},
    "copy": {"source": "farspan.training.data.recall:SpanCopy"},
    "key_values": {"source": "farspan.evals.exercises:KeyValues"},
    "records": {"source": "farspan.evals.exercises:KeyValues", "settings": RECORDS},
}


def training_config(kind: str, tokenizer_folder: Path, mask_token_id: int, given: argparse.Namespace) -> TrainConfig:
    """The training of one twin: the reference model's shape and optimiser, and a short curriculum of its own."""
    base = TrainConfig.from_yaml(training_file())
    model = dict(base.model) | {"model_type": TWINS[kind], "max_position_embeddings": given.window}
    if given.hidden_size:
        model |= {"hidden_size": given.hidden_size, "intermediate_size": 2 * given.hidden_size, "head_dim": 16}
        heads = max(2, given.hidden_size // 32)
        model |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    if given.layers:
        model["num_hidden_layers"] = given.layers
    if kind == "diffusion":
        model["mask_token_id"] = mask_token_id
    lengths = {64: 1.0, 128: 1.0, 256: 2.0, 512: 4.0}
    early = {length: share for length, share in lengths.items() if length <= min(128, given.window)}
    late = {length: share for length, share in lengths.items() if 128 <= length <= given.window} or {given.window: 1.0}
    stages = [
        (0.3, early, {"copy": 3, "key_values": 2, "records": 2, "text": 1}),
        (0.7, late, {"copy": 0.5, "key_values": 1.5, "records": 4, "text": 2}),
    ]
    document = base.model_dump() | {
        "name": f"longllada-{kind}",
        "model": model,
        "tokenizer": {"path": str(tokenizer_folder)},
        "sources": SOURCES,
        "stages": [
            {"tokens": max(base.batch_tokens, int(share * given.tokens)), "lengths": rows, "mix": mix}
            for share, rows, mix in stages
        ],
        "threads": given.threads,
    }
    return TrainConfig.model_validate(document)


def twin(kind: str, given: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Train one twin, or take it from an earlier run with the same settings."""
    folder = given.runs / f"{kind}-{given.window}-{given.tokens}-{given.hidden_size or 0}-{given.layers or 0}"
    tokenizer = AutoTokenizer.from_pretrained(reference_path())
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    tokenizer.save_pretrained(folder / "own-tokenizer")
    final = folder / "final"
    if not (final / "config.json").is_file():
        train(training_config(kind, folder / "own-tokenizer", tokenizer.mask_token_id, given), folder)
    return load(final, dtype="float32")


def held_out_texts(tokenizer: PreTrainedTokenizerBase, length: int, number: int) -> list[list[int]]:
    """Stretches of files that training never read, each of one file."""
    files = TextFiles(tokenizer, split="held_out").token_ids()
    texts = [
        [int(token) for token in ids[start : start + length]]
        for ids in files
        for start in range(0, len(ids) - length + 1, length)
    ]
    step = max(1, len(texts) // number)
    return texts[::step][:number]


def perplexity(model: PreTrainedModel, texts: list[list[int]], given: argparse.Namespace) -> dict[str, object]:
    """Chunk perplexities along the texts, and how they change beyond the window."""
    curves = [perplexity_curve(model, ids, given.chunk, mc_num=given.mc_num, seed=given.seed) for ids in texts]
    by_position = {
        points[0].position: math.exp(statistics.mean(math.log(point.chunk) for point in points))
        for points in zip(*curves, strict=True)
    }

    def mean(low: float, high: float) -> float:
        return math.exp(statistics.mean(math.log(v) for at, v in by_position.items() if low < at <= high))

    def growth(points: list[CurvePoint]) -> float:
        """Of one text, from the half of the window before its end to the farthest stretch measured."""
        logs = {point.position: math.log(point.chunk) for point in points}
        longest = max(given.times)
        near = [v for at, v in logs.items() if given.window / 2 < at <= given.window]
        far = [v for at, v in logs.items() if longest / 2 * given.window < at <= longest * given.window]
        return math.exp(statistics.mean(far) - statistics.mean(near))

    def against_cut(low: float, high: float) -> float:
        """The same chunks behind all that precedes them, over behind one window of it: what length alone does."""
        logs = []
        for ids, points in zip(texts, curves, strict=True):
            for point in points:
                if low < point.position <= high:
                    near = ids[point.position - given.window : point.position]
                    cut = perplexity_curve(model, near, given.chunk, mc_num=given.mc_num, seed=given.seed)[-1]
                    logs.append(math.log(point.chunk) - math.log(cut.chunk))
        return math.exp(statistics.mean(logs))

    inside = mean(given.window / 2, given.window)
    return {
        "by_position": by_position,
        "inside": inside,
        "growth_by_text": [growth(points) for points in curves],
        "ratio_beyond_to_inside": {
            str(times): mean(times / 2 * given.window, times * given.window) / inside for times in given.times
        },
        "ratio_to_cut_context": {
            str(times): against_cut(times / 2 * given.window, times * given.window) for times in given.times
        },
    }


def retrieval(
    kind: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, given: argparse.Namespace
) -> dict[str, object]:
    """The perception map over lengths from half the window to the longest."""
    lengths = [given.window // 2 if given.window > 256 else given.window, *(t * given.window for t in given.times)]
    lengths = sorted({*lengths, given.window})
    settings = {"n": given.samples, "seed": given.seed}
    if kind == "diffusion":
        found = local_perception(fill_by_denoiser(ModelDenoiser(model)), tokenizer, lengths, **settings)
    else:
        with Engine(model, tokenizer, enforce_context_length=False) as engine:
            found = local_perception(fill_by_engine(engine), tokenizer, lengths, **settings)
    by_length = dict(zip(found.lengths, map(statistics.mean, found.accuracy), strict=True))
    return {**found.model_dump(), "accuracy_by_length": by_length, "perception_window_tokens": found.window()}


def cached_sampler(model: PreTrainedModel, texts: list[list[int]], given: argparse.Namespace) -> dict[str, object]:
    """Plain and cached block sampling of the same prompts, interleaved."""
    denoiser = ModelDenoiser(model)
    prompt = given.window - 64
    taken: dict[bool, list[float]] = {False: [], True: []}
    equal_texts, equal_tokens = [], []

    def ids_of(text: list[int]) -> torch.Tensor:
        return torch.tensor([text], device=model.device)

    for ids in texts:
        found = {}
        for cached in (False, True):
            config = DiffusionConfig(steps=64, gen_length=64, block_length=16, early_stop=False, cache_prefix=cached)
            started = time.perf_counter()
            found[cached] = generate_masked_diffusion(
                denoiser, torch.tensor([ids[:prompt]], device=model.device), config
            )
            taken[cached].append(time.perf_counter() - started)
        same = (found[False] == found[True])[0, prompt:].float()
        equal_texts.append(float(same.min()))
        equal_tokens.append(float(same.mean()))
    return {
        "prompt_tokens": prompt,
        "new_tokens": 64,
        "block": 16,
        "texts": len(texts),
        "equal_texts": statistics.mean(equal_texts),
        "equal_tokens": statistics.mean(equal_tokens),
        "median_seconds_plain": statistics.median(taken[False]),
        "median_seconds_cached": statistics.median(taken[True]),
        "speedup": statistics.median(taken[False]) / statistics.median(taken[True]),
    }


def measure(kind: str, given: argparse.Namespace) -> dict[str, object]:
    """Everything about one twin."""
    model, tokenizer = twin(kind, given)
    texts = held_out_texts(tokenizer, max(given.times) * given.window, given.texts)
    result: dict[str, object] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "texts": len(texts),
    }
    for factor in (1, *given.times):
        with NTKCritical(factor=factor)(model) if factor > 1 else nullcontext():
            result[f"factor_{factor}"] = {
                "rope_theta": model.config.rope_parameters["rope_theta"],
                "perplexity": perplexity(model, texts, given),
                "retrieval": retrieval(kind, model, tokenizer, given),
            }
    if kind == "diffusion":
        result["cached_sampler"] = cached_sampler(model, texts, given)
    return result


def directions(twins: dict[str, dict[str, object]], given: argparse.Namespace) -> dict[str, bool | None]:
    """Whether the published directions hold here; named one by one, so that one that fails is seen.

    None where the figures cannot tell, because no twin learned to retrieve at any length.
    """
    longest = max(given.times)

    def perplexity_of(kind: str, factor: int) -> dict[str, object]:
        return twins[kind][f"factor_{factor}"]["perplexity"]  # type: ignore[index,no-any-return]

    def growth(kind: str, factor: int) -> float:
        return float(perplexity_of(kind, factor)["ratio_beyond_to_inside"][str(longest)])  # type: ignore[index]

    def window(kind: str, factor: int) -> float:
        return float(twins[kind][f"factor_{factor}"]["retrieval"]["perception_window_tokens"])  # type: ignore[index]

    def harm(kind: str) -> float:
        return float(perplexity_of(kind, 1)["ratio_to_cut_context"][str(longest)])  # type: ignore[index]

    pairs = zip(*(perplexity_of(kind, 1)["growth_by_text"] for kind in TWINS), strict=True)  # type: ignore[call-overload]
    flatter = [diffusion < autoregressive for diffusion, autoregressive in pairs]
    seen = any(window(kind, factor) > 0 for kind in TWINS for factor in (1, longest))
    return {
        "perplexity of diffusion grows less beyond the window": growth("diffusion", 1) < growth("autoregressive", 1),
        "on most of the texts, one by one": sum(flatter) > len(flatter) / 2,
        "on the same tokens, text beyond the window harms diffusion less": harm("diffusion") < harm("autoregressive"),
        "diffusion sees at least as far, unstretched": (
            window("diffusion", 1) >= window("autoregressive", 1) if seen else None
        ),
        "the lever lets diffusion see farther": window("diffusion", longest) > window("diffusion", 1) if seen else None,
        "the lever lowers perplexity of diffusion there": growth("diffusion", longest) < growth("diffusion", 1),
        "the lever lowers perplexity of the autoregressive twin there": (
            growth("autoregressive", longest) < growth("autoregressive", 1)
        ),
    }


def main() -> None:
    """Train, measure, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8_000_000, help="training tokens of each twin")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--times", type=int, nargs="+", default=[2, 4], help="lengths beyond the window, in windows")
    parser.add_argument("--hidden-size", type=int, help="width, where it should not be the reference model's")
    parser.add_argument("--layers", type=int, help="layers, where they should not be the reference model's")
    parser.add_argument("--texts", type=int, default=8, help="held-out texts")
    parser.add_argument("--samples", type=int, default=20, help="retrieval samples a length and depth")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--mc-num", type=int, default=8, help="random maskings a chunk")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "longllada")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "longllada.json")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    twins = {kind: measure(kind, given) for kind in TWINS}
    record = {
        "what": "a masked-diffusion model and an autoregressive twin inside and beyond their window",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {name: value for name, value in vars(given).items() if name not in ("runs", "out")},
        "twins": twins,
        "directions": directions(twins, given),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for line, holds in record["directions"].items():
        print(f"{'cannot tell' if holds is None else 'holds' if holds else 'FAILS'}: {line}")


if __name__ == "__main__":
    main()
