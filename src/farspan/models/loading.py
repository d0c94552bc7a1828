"""Loading a model and its tokenizer: a local folder, a hub name, or `reference`.

What comes back is an ordinary transformers model and tokenizer, never a class of our own. Code that a checkpoint
carries is not run unless asked for.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from farspan.errors import ModelNotFound
from farspan.models.reference import reference_path
from farspan.recipe import lever_class, lever_table

REFERENCE = "reference"


def model_path(name_or_path: str | Path) -> str:
    """The folder of a local model or of `reference`; a hub name comes back unchanged.

    Raises
    ------
    ModelNotFound : the text looks like a path, but no checkpoint lies there.
    """
    text = str(name_or_path)
    if text == REFERENCE:
        return str(reference_path())
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"no model in {folder}: config.json is missing")
        return str(folder)
    if folder.exists():
        raise ModelNotFound(f"{folder} is a file; give the folder that holds config.json and the weights")
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelNotFound(
            f"no folder {folder}; give a local model folder, a hub name such as org/name, or 'reference'"
        )
    return text


def load(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for inference.

    A checkpoint that was saved while an attention lever was on is read with that lever, which transformers by itself
    ignores.

    Parameters
    ----------
    name_or_path : a local folder, a hub name, or `reference` for the bundled model
    dtype : a torch dtype or its name; `auto` keeps the checkpoint's, except that bfloat16 and float16 become float32
        on a CPU, where half precision is slower and less exact
    device : `auto` takes the first GPU, else the CPU
    attn_implementation : instead of what the checkpoint remembers, or else transformers' own choice
    trust_remote_code : run code that the checkpoint carries

    Raises
    ------
    ModelNotFound : one line that says what is missing and what to do.
    """
    path = model_path(name_or_path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    target = torch.device(device)
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        wanted = _dtype(dtype, config.dtype, target)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=wanted,
            attn_implementation=attn_implementation or _remembered(config),
            trust_remote_code=trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        raise ModelNotFound(_explain(str(name_or_path), path, error)) from error
    logging.getLogger(__name__).debug("loaded %s as %s on %s", path, wanted, target)
    nn.Module.to(model, device=target)
    return model.eval(), tokenizer


def _remembered(config: PretrainedConfig) -> str | None:
    """The attention lever that a checkpoint was saved with, as transformers is told of it."""
    saved = getattr(config, "farspan_attention", None)
    name = saved.get("lever") if isinstance(saved, dict) else None
    # what had to be learned for a lever lies beside its recipe, not in the checkpoint
    if not isinstance(name, str) or name not in lever_table() or lever_class(name).needs != "nothing":
        return None
    return f"farspan_{name.replace('-', '_')}"


def _dtype(asked: str | torch.dtype, stored: torch.dtype | None, device: torch.device) -> torch.dtype:
    if isinstance(asked, torch.dtype):
        return asked
    if asked != "auto":
        found = getattr(torch, asked, None)
        if not isinstance(found, torch.dtype):
            raise ModelNotFound(f"unknown dtype '{asked}'; use auto, float32, bfloat16 or float16")
        return found
    if stored is None or (device.type == "cpu" and stored in (torch.bfloat16, torch.float16)):
        return torch.float32
    return stored


def _explain(name: str, path: str, error: Exception) -> str:
    """One line a user can act on, from the several paragraphs that loaders print."""
    text = " ".join(str(error).split())
    if Path(path).is_dir():
        if "trust_remote_code" in text:
            return f"model {name} carries its own code; pass --trust-remote-code if you trust it"
        missing = "tokenizer files" if "tokenizer" in text.lower() else "weights or configuration"
        return f"cannot load {name}: {missing} missing or broken in that folder ({text[:160]})"
    if "trust_remote_code" in text:
        return f"model {name} carries its own code; pass --trust-remote-code if you trust it"
    return (
        f"cannot load '{name}': no such local folder, and the hub cannot be reached or has no such model; "
        "give a folder, a hub name that is in the local cache, or 'reference'"
    )
