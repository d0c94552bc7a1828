"""Tiny vision-language models with random weights, and inputs for them, built in code."""

from __future__ import annotations

import string

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

IMAGE, VIDEO, VISION_START, VISION_END = 90, 91, 92, 93
SECTIONS = [2, 3, 3]
HEAD_DIM = 16
CHARACTERS = string.ascii_letters + string.digits + " .,?:\n"
KINDS = ("qwen2_vl", "qwen2_5_vl")

Inputs = dict[str, torch.Tensor]


def vision_model(
    kind: str = "qwen2_vl", seed: int = 0, *, vocab_size: int = 96, layers: int = 2, sections: list[int] | None = None
) -> PreTrainedModel:
    """Two layers of grouped heads with 16 channels, biased queries and keys; one token for each 28 x 28 pixels."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections or SECTIONS},
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        # With the usual smaller weights attention is so flat that positions hardly reach the logits.
        "initializer_range": 0.1,
    }
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    torch.manual_seed(seed)
    model: PreTrainedModel
    if kind == "qwen2_vl":
        vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))
    else:
        vision = {
            "depth": 1,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [0],
            "tokens_per_second": 2,
        }
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                # Fresh biases are zero, and would hide a bias that was not permuted.
                parameter.normal_(std=0.1)
        # Never the best: a generated image token would need an image, and what has no character would not be seen.
        model.lm_head.weight[[0, *range(1 + len(CHARACTERS), vocab_size)]] = 0
    return model.float().eval()


def block(kind: int, grid: tuple[int, int, int]) -> list[int]:
    """Tokens of one image or video of a grid in patches, with start and end."""
    frames, height, width = grid
    return [VISION_START, *[kind] * (frames * height * width // 4), VISION_END]


def inputs_of(
    rows: list[list[int]],
    image_grids: list[tuple[int, int, int]] = (),  # type: ignore[assignment]
    video_grids: list[tuple[int, int, int]] = (),  # type: ignore[assignment]
    seed: int = 0,
) -> Inputs:
    """A batch padded on the left, with random pixels for its images and videos."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    found: Inputs = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        "mm_token_type_ids": ((ids == IMAGE).int() + 2 * (ids == VIDEO).int()),
    }
    generator = torch.Generator().manual_seed(seed)
    for grids, pixels, name in (
        (image_grids, "pixel_values", "image_grid_thw"),
        (video_grids, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids:
            found[name] = torch.tensor(grids)
            patches = int(found[name].prod(-1).sum())
            found[pixels] = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator)
    return found


def logits_of(model: PreTrainedModel, inputs: Inputs, **more: object) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, use_cache=False, **more).logits
    return logits


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, with ids below those of the vision tokens."""
    vocabulary = {"<pad>": 0, **{character: 1 + index for index, character in enumerate(CHARACTERS)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
