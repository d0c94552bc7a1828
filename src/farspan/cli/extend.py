"""`farspan extend`: stretch a model's window and write a checkpoint that needs no Farspan to load.

It reads arguments and says what was done; planning and writing is done by the positions room.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_length, parse_setting

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from farspan.positions import RopeSpec


class Form(StrEnum):
    """How the frequencies are written."""

    auto = "auto"
    native = "native"
    longrope = "longrope"


def extend(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    method: Annotated[str, typer.Option(help="How to stretch, such as yarn, ntk, linear, llama3 or truncated-basis.")],
    target_length: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Window to reach, such as 8k or 131072 tokens.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.", metavar="DIR")],
    format: Annotated[
        Form, typer.Option(help="native: the method's own rope_type; longrope: one divisor a pair; auto chooses.")
    ] = Form.auto,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
    ] = None,
    compose: Annotated[bool, typer.Option("--compose", help="Stretch a model that is stretched already.")] = False,
    layer_type: Annotated[
        str | None, typer.Option(help="Layers to stretch in a layer-typed model; those that see everything by default.")
    ] = None,
    fold_attention_factor: Annotated[
        bool, typer.Option("--fold-attention-factor", help="Write the attention factor into the query weights.")
    ] = False,
    vllm_keys: Annotated[bool, typer.Option(help="Also write the keys vLLM takes the attention factor from.")] = True,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Stretch the window of a model and write a checkpoint that plain transformers and vLLM load.

    Weights keep their precision. Nothing is trained: how well the stretched model reads, `farspan eval` says.

    Example:

        farspan extend reference --method truncated-basis --target-length 4k --out runs/extended
        farspan extend DIR --method yarn --target-length 128k --param beta_fast=16 --out DIR-128k
    """
    settings = dict(parse_setting(text) for text in param or [])
    from rich.console import Console
    from torch import nn
    from transformers.utils import logging as transformers_logging

    from farspan.models import load, model_path
    from farspan.positions import length_limits, plan_rope, save_extended

    # It warns of the keys written for vLLM, which it does not know itself.
    transformers_logging.set_verbosity_error()
    source = model_path(model)
    if Path(source).is_dir() and out.expanduser().resolve() == Path(source).resolve():
        raise ArgumentError(f"{out} is the model's own folder; choose another with --out")
    console = Console(stderr=True)
    config = stored_config(source, trust_remote_code) if Path(source).is_dir() else None
    if config is not None:
        # What cannot work is refused before gigabytes are read.
        plan_rope(config, method, target_length, layer_type, compose=compose, **settings)
    folder = output_folder(out)
    with console.status(f"loading {model}"):
        loaded, tokenizer = load(model, device="cpu", trust_remote_code=trust_remote_code)
        config = config or stored_config(source, trust_remote_code)
        if config is not None and config.dtype is not None:
            # Half precision is widened for computing on a CPU; the way back is exact.
            nn.Module.to(loaded, config.dtype)
    spec = plan_rope(loaded.config, method, target_length, layer_type, compose=compose, **settings)
    with console.status(f"writing {folder}"):
        save_extended(
            loaded,
            tokenizer,
            folder,
            spec,
            format.value,
            fold_attention_factor=fold_attention_factor,
            vllm_keys=vllm_keys,
        )
    for line in _summary(spec, folder, length_limits(loaded, spec)):
        typer.echo(line)


def stored_config(source: str, trust_remote_code: bool) -> PretrainedConfig | None:
    """The configuration without the weights; None if it cannot be read, which loading the model says in one line."""
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None
    return config


def _summary(spec: RopeSpec, folder: Path, limits: dict[str, int]) -> list[str]:
    from farspan.positions.rope import default_inv_freq

    own = default_inv_freq(spec.rope_theta, spec.rotary_dim)
    rest = int((spec.inv_freq == 0).sum())
    kept = int(((spec.inv_freq / own - 1).abs() < 1e-6).sum())
    lines = [
        f"{spec.method}: window {spec.original_length} -> {spec.target_length} tokens",
        f"rotary pairs: {kept} kept, {spec.inv_freq.numel() - kept - rest} changed, {rest} at rest "
        f"(n = {spec.inv_freq.numel()}); attention factor {spec.attention_factor:.4g}",
        f"checkpoint: {folder}",
    ]
    lines += [f"still below the target: {name} = {value} tokens" for name, value in limits.items()]
    return lines
