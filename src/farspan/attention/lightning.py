"""Lightning: the linear layers of a MiniMax model through Farspan's operation, and their published form restored.

transformers computes these layers block by block in Python, one token at a time once there is a cache, cannot cut its
cache back, loses the length of it where the first layer is linear, and departs from the released code in two places:
slopes of head counts that are no power of two, and rotary positions on a part of each head. The lever replaces the
modules while it is on; weights are shared, not copied. Softmax layers are left to levers of the slot `attention`.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2, and the released modelling code of MiniMax-M1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.minimax.modeling_minimax import MiniMaxAttention, MiniMaxLightningAttention, MiniMaxModel

from farspan.errors import LeverNotApplicable
from farspan.models.lightning import Backend, HybridCache, LightningAttention, decay_slopes
from farspan.models.lightning.slopes import FULL
from farspan.recipe import Lever


class Lightning(Lever):
    """Linear layers of a MiniMax model by tiles, with a cache that works.

    Fields
    ------
    backend, block_size : how the operation is computed, see `lightning_attention`
    published_slopes : decay of the published formula also where transformers' differs
    partial_rotary : rotate only the first `rotary_dim` channels of a head where the configuration says so
    """

    name: ClassVar[str] = "lightning"
    slot: ClassVar[str] = "mixer"

    backend: Backend = "auto"
    block_size: Annotated[int, Field(ge=1)] | None = None
    published_slopes: bool = True
    partial_rotary: bool = True

    def check(self, config: PretrainedConfig) -> None:
        if config.model_type != "minimax":
            raise LeverNotApplicable(
                f"lever 'lightning' needs a MiniMax model with linear layers, not '{config.model_type}'; "
                "'linearize' gives other decoders such layers"
            )
        original = getattr(config, "attn_type_list", None)
        if original is not None and [kind != 0 for kind in original] != [kind == FULL for kind in config.layer_types]:
            raise LeverNotApplicable(
                "layer_types contradicts attn_type_list: the model was built with other layers than its checkpoint; "
                "set layer_types in config.json and load again"
            )

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        with ExitStack() as undo:
            for module in list(model.modules()):
                if isinstance(module, MiniMaxModel):
                    if self.partial_rotary:
                        _rotate_partly(module, undo)
                    undo.callback(module.register_forward_pre_hook(_bring_cache, with_kwargs=True).remove)
                for name, child in list(module.named_children()):
                    if isinstance(child, MiniMaxLightningAttention):
                        setattr(module, name, self._replacement(child))
                        undo.callback(setattr, module, name, child)
            yield

    def _replacement(self, stock: MiniMaxLightningAttention) -> LightningAttention:
        if self.published_slopes:
            slopes = decay_slopes(stock.num_attention_heads, stock.layer_idx, stock.num_hidden_layers)
        else:
            slopes = stock.get_slope_rate().flatten().float().cpu()
        layer = LightningAttention(
            qkv_proj=stock.qkv_proj,
            norm=stock.norm,
            out_proj=stock.out_proj,
            output_gate=stock.output_gate,
            num_heads=stock.num_attention_heads,
            head_dim=stock.head_dim,
            layer_idx=stock.layer_idx,
            slopes=slopes,
            block_size=self.block_size,
            backend=self.backend,
        )
        return layer.train(stock.training)


def _bring_cache(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Give a forward that wants a cache, and has none, one that linear layers can write to."""
    wanted = kwargs.get("use_cache")
    if wanted is None:
        wanted = model.config.use_cache  # type: ignore[union-attr]
    checkpointing = model.training and getattr(model, "gradient_checkpointing", False)
    if wanted and not checkpointing and kwargs.get("past_key_values") is None and len(args) < 4:
        kwargs = {**kwargs, "past_key_values": HybridCache()}
    return args, kwargs


def rotary_channels(config: PretrainedConfig) -> int:
    """Channels of a head that the configuration wants rotated."""
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = getattr(config, "rope_parameters", None) or {}
    share = parameters.get("partial_rotary_factor")
    asked = getattr(config, "rotary_dim", None)
    if asked is None:
        asked = head_dim if share is None else int(head_dim * share)
    return min(int(asked), head_dim)


def _rotate_partly(model: MiniMaxModel, undo: ExitStack) -> None:
    """Rotate the first channels of each head only, unless the installed version does so itself.

    Its rotation pairs channel i with i + head_dim / 2, the published one i with i + rotary_dim / 2. Equal permutations
    of queries and keys change no score, so their channels are put in an order where the pairs meet, and the pairs that
    do not rotate get frequency 0.
    """
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = rotary_channels(config)
    embedding = model.rotary_emb
    stock = cast(Tensor, embedding.inv_freq)
    if rotary >= head_dim or stock.numel() <= rotary // 2 or bool((stock[rotary // 2 :] == 0).all()):
        return
    parameters = cast("dict[str, float]", config.rope_parameters)
    exponents = torch.arange(0, rotary, 2, dtype=torch.float, device=stock.device) / rotary
    partly = torch.zeros_like(stock)
    partly[: rotary // 2] = float(parameters["rope_theta"]) ** -exponents
    embedding.register_buffer("inv_freq", partly, persistent=False)
    undo.callback(embedding.register_buffer, "inv_freq", stock, persistent=False)
    half, turned = head_dim // 2, rotary // 2
    still = torch.arange(rotary, head_dim)
    order = torch.cat(
        [torch.arange(turned), still[: half - turned], torch.arange(turned, rotary), still[half - turned :]]
    )
    for module in model.modules():
        if not isinstance(module, MiniMaxAttention):
            continue
        for projection in (module.q_proj, module.k_proj):
            _reorder(projection, order, head_dim)
            undo.callback(_reorder, projection, order.argsort(), head_dim)


@torch.no_grad()
def _reorder(projection: nn.Linear, order: Tensor, head_dim: int) -> None:
    """Permute the output channels of every head alike."""
    for parameter in (projection.weight, projection.bias):
        if parameter is not None:
            heads = parameter.view(-1, head_dim, *parameter.shape[1:])
            parameter.copy_(heads[:, order.to(parameter.device)].flatten(0, 1))
