"""Writing a stretched model as a checkpoint that plain transformers and vLLM load, without Farspan.

The frequencies are written as rotary parameters of transformers' own types; the weights stay as they are, unless the
attention factor is folded into them. The model given is unchanged afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from farspan.errors import FarspanError
from farspan.positions.apply import Format, kept_positions, settle, write_config
from farspan.positions.fold import folded
from farspan.positions.rope import RopeSpec, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_extended(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    out_dir: str | Path,
    spec: RopeSpec,
    format: Format = "auto",
    fold_attention_factor: bool = False,
    *,
    vllm_keys: bool = True,
    switch_length: Literal["target", "original"] = "target",
) -> Path:
    """Write model and tokenizer with the rotary positions of `spec`.

    Parameters
    ----------
    model : as it is, or with the same positions applied already
    tokenizer : its `model_max_length` is written as the target length; None to write the model alone
    out_dir : folder, made if missing
    spec : from `plan_rope` or a lever's `plan`
    format, vllm_keys, switch_length : see `rope_parameters_of`
    fold_attention_factor : multiply the query weights instead of writing an attention factor

    Returns
    -------
    The folder.

    Raises
    ------
    LeverNotApplicable : the architecture cannot express the positions, or the factor cannot be folded.
    FarspanError : the folder cannot be written.
    """
    folder = Path(out_dir).expanduser()
    if fold_attention_factor:
        with folded(model, spec) as plain:
            return save_extended(
                model, tokenizer, folder, plain, format, vllm_keys=vllm_keys, switch_length=switch_length
            )
    config = text_config(model.config)
    parameters = settle(config, spec, format, vllm_keys=vllm_keys, switch_length=switch_length)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with kept_positions(model):
            write_config(config, spec, parameters)
            model.save_pretrained(folder)
        if tokenizer is not None:
            _save_tokenizer(tokenizer, folder, spec.target_length)
    except OSError as error:
        raise FarspanError(f"cannot write a checkpoint to {folder}: {error.strerror or error}") from error
    return folder


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, length: int) -> None:
    before = tokenizer.model_max_length
    tokenizer.model_max_length = length
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = before


def length_limits(model: PreTrainedModel, spec: RopeSpec) -> dict[str, int]:
    """Settings other than positions that keep the model below the target length, with their values in tokens.

    A sliding window is listed where some layers see the whole context; attention of the others ends there by design.
    """
    config = text_config(model.config)
    found = {
        "sliding_window": getattr(config, "sliding_window", None),
        "attention_chunk_size": getattr(config, "attention_chunk_size", None),
        "generation_config.max_length": getattr(getattr(model, "generation_config", None), "max_length", None),
    }
    return {name: value for name, value in found.items() if isinstance(value, int) and 0 < value < spec.target_length}
