"""Masked diffusion: hide a random share of the tokens and learn to fill them in, from both sides.

The share is drawn anew for every row, and tokens count the more the fewer are hidden; the loss then bounds the
negative log-likelihood of the text a token. Only tokens that a document marks as supervised are hidden, so that
questions stay readable and answers are learned.

Source: arXiv 2502.09992, section 2.2 and appendix A.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from farspan.errors import FarspanError
from farspan.training.data.documents import step_seed
from farspan.training.data.packing import IGNORE_INDEX, document_ids
from farspan.training.loss import linear_cross_entropy_sum
from farspan.training.trainer import Batch, LongTrainer


class Noised(NamedTuple):
    """Tokens with some hidden: ids and what is hidden, both [rows, length], and the share drawn for each row [rows]."""

    ids: Tensor
    hidden: Tensor
    share: Tensor


def hide_tokens(
    input_ids: Tensor,
    mask_token_id: int,
    maskable: Tensor | None = None,
    eps: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Noised:
    """Replace tokens by the mask, each with the probability drawn for its row.

    Parameters
    ----------
    input_ids : [rows, length]
    maskable : bool [rows, length], tokens that may be hidden; all where left out
    eps : least probability, which bounds the weight of a token
    generator : on the CPU

    Raises
    ------
    FarspanError : `eps` outside (0, 1).
    """
    if not 0 < eps < 1:
        raise FarspanError(f"eps is {eps}; the least share of hidden tokens must lie between 0 and 1")
    rows = len(input_ids)
    share = eps + (1 - eps) * torch.rand(rows, generator=generator)
    hidden = torch.rand(input_ids.shape, generator=generator) < share[:, None]
    hidden = hidden.to(input_ids.device)
    if maskable is not None:
        hidden = hidden & maskable
    return Noised(input_ids.masked_fill(hidden, mask_token_id), hidden, share.to(input_ids.device))


def masked_loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    eps: float = 1e-3,
    generator: torch.Generator | None = None,
    *,
    maskable: Tensor | None = None,
    token_weights: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """One draw of the loss: cross-entropy of hidden tokens over their share, a mean over all tokens that may be hidden.

    Parameters
    ----------
    model : a masked-diffusion model with decoder and head
    input_ids : [rows, length]; padding is known by the configuration's `pad_token_id` and seen by nobody
    eps, generator, maskable : see `hide_tokens`; padding is never hidden
    token_weights : [rows, length], what each token weighs; 1 where left out
    position_ids : [rows, length], starting over with every document of a packed row

    Returns
    -------
    Scalar, 0 where nothing may be hidden.

    Raises
    ------
    FarspanError : the model names no mask token.

    Source: arXiv 2502.09992, equation 3.
    """
    config = model.config
    mask_token_id = getattr(config, "mask_token_id", None)
    if not isinstance(mask_token_id, int):
        raise FarspanError(f"{type(model).__name__} names no mask_token_id; masked diffusion needs one")
    padding = torch.zeros_like(input_ids, dtype=torch.bool)
    if config.pad_token_id is not None:
        padding = input_ids == config.pad_token_id
    maskable = ~padding if maskable is None else maskable & ~padding
    noised = hide_tokens(input_ids, mask_token_id, maskable, eps, generator)
    states = model.get_decoder()(
        input_ids=noised.ids,
        attention_mask=visibility(padding, position_ids, model.dtype),
        position_ids=position_ids,
        use_cache=False,
    ).last_hidden_state
    weights = torch.ones(input_ids.shape, device=input_ids.device) if token_weights is None else token_weights
    head = model.get_output_embeddings()
    total, _ = linear_cross_entropy_sum(
        states.flatten(0, 1),
        head.weight,
        input_ids.masked_fill(~noised.hidden, IGNORE_INDEX).flatten(),
        bias=getattr(head, "bias", None),
        token_weights=(weights / noised.share[:, None]).flatten(),
    )
    return total / weights[maskable].sum().clamp(min=1e-8)


def visibility(padding: Tensor, position_ids: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What tokens see: all but padding, and in packed rows their own document alone.

    Parameters
    ----------
    padding : bool [rows, length]
    position_ids : [rows, length] or None

    Returns
    -------
    None where everything is seen, [rows, length] with 0 for padding, or [rows, 1, length, length] to be added to scores
    """
    documents = None if position_ids is None else document_ids(position_ids)
    if documents is None:
        return (~padding).long() if bool(padding.any()) else None
    apart = documents[:, :, None] != documents[:, None, :]
    own = torch.eye(padding.shape[1], dtype=torch.bool, device=padding.device)
    # A row that sees nothing would turn into a mean over everything, so even padding sees itself.
    unseen = (apart | padding[:, None, :]) & ~own
    return torch.zeros(unseen.shape, dtype=dtype, device=padding.device).masked_fill(unseen, torch.finfo(dtype).min)[
        :, None
    ]


class MaskedDiffusionTrainer(LongTrainer):
    """The trainer with this loss, on the same batches; what is hidden depends on seed and step alone."""

    masks = True

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._drawn = (-1, 0)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Tensor:
        step, draw = self._drawn
        draw = draw + 1 if step == self.state.global_step else 0
        self._drawn = (self.state.global_step, draw)
        seed = step_seed("hidden", self.args.seed, self.state.global_step, draw, self.args.process_index)
        with self.accelerator.autocast():
            return masked_loss(
                self.accelerator.unwrap_model(model),
                inputs["input_ids"],
                generator=torch.Generator().manual_seed(seed),
                maskable=inputs["labels"] != IGNORE_INDEX,
                token_weights=inputs["loss_weights"],
                position_ids=inputs.get("position_ids"),
            )
