"""Masks: what transformers is told to hand over, and how it is read.

`attention_mask` is registered beside the attention function. Its answer is unambiguous: None is plain causal attention
without padding, a 2-D mask is causal attention with padding, and everything else (packed documents, windows that bind,
static caches, bidirectional attention) is the full 4-D mask. Queries are always the last positions of the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sdpa_mask


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., object] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: object,
) -> Tensor | None:
    """The mask function of all Farspan attention methods; arguments as transformers passes them.

    `allow_is_causal_skip` is how transformers says that nothing but causality, padding and the window shapes the mask.
    """
    causal = mask_function == causal_mask_function
    plain = allow_is_causal_skip and not torch.compiler.is_compiling()
    plain = plain and (causal or (local_size is not None and kv_length < local_size))
    if plain and kv_offset == 0 and int(q_offset) + q_length == kv_length:
        if attention_mask is None:
            return None
        padded = torch.nn.functional.pad(attention_mask, (0, max(0, kv_length - attention_mask.shape[-1])))
        padded = padded[:, :kv_length].bool()
        return None if bool(padded.all()) else padded
    arguments = {
        **kwargs,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": mask_function,
        "attention_mask": attention_mask,
        "local_size": local_size,
        "allow_is_causal_skip": False,
        "allow_is_bidirectional_skip": False,
    }
    written_out: Callable[..., Tensor | None] = sdpa_mask
    return written_out(batch_size, q_length, kv_length, **arguments)


@dataclass
class PaddingMask:
    """A 2-D mask, or none, read once for all layers of a forward.

    mask : Tensor bool [B, Lkv] (True is a token), or None without padding
    """

    mask: Tensor | None
    _full: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @cached_property
    def spans(self) -> list[tuple[int, int]] | None:
        """First and one past the last token of each batch row; None where padding lies between tokens."""
        if self.mask is None:
            return []
        length = self.mask.shape[1]
        count = self.mask.sum(-1)
        start = torch.where(count > 0, self.mask.byte().argmax(-1), 0)
        stop = torch.where(count > 0, length - self.mask.flip(-1).byte().argmax(-1), 0)
        if bool((stop - start != count).any()):
            return None
        return list(zip(start.tolist(), stop.tolist(), strict=True))

    def full(self, q_length: int, kv_length: int, device: torch.device) -> Tensor | None:
        """The mask as dense attention takes it: bool [B or 1, 1, Lq, Lkv], or None where causality says it all."""
        if self.mask is None and (q_length == 1 or q_length == kv_length):
            return None
        if (q_length, kv_length) not in self._full:
            rows = torch.arange(kv_length - q_length, kv_length, device=device)
            cells = torch.arange(kv_length, device=device) <= rows[:, None]
            whole = cells[None, None] if self.mask is None else cells & self.mask[:, None, None].to(device)
            self._full = {(q_length, kv_length): whole}
        return self._full[q_length, kv_length]
