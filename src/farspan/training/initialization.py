"""Initial weights for small decoders with tied embeddings: tokens stay readable, and positions can be attended to.

With the usual small embeddings the first optimiser steps bury the tokens under what the blocks add, and with
embeddings of mean zero no head can look at "the token before", whatever it is: queries and keys hold nothing that all
tokens share. Both cost a small model millions of tokens before its induction heads form.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from farspan.errors import FarspanError
from farspan.training.config import InitializationConfig

# Output projections of a block, by their names in Llama and its relatives.
OUTPUTS = ("o_proj", "down_proj")


def initialize(model: PreTrainedModel, settings: InitializationConfig) -> None:
    """Draw embeddings anew, set the last norm, and quieten the blocks, in place; the seed is torch's own.

    Raises
    ------
    FarspanError : the decoder's last norm or the blocks' output projections are not where Llama has them.
    """
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight
    norm = getattr(model.get_decoder(), "norm", None)
    outputs = [module for name, module in model.named_modules() if name.rpartition(".")[2] in OUTPUTS]
    if not isinstance(norm, nn.Module) or not outputs:
        raise FarspanError(f"initialization knows Llama's layout only, not that of {type(model).__name__}")
    with torch.no_grad():
        embeddings.normal_(0.0, settings.embedding_std)
        if settings.common_direction:
            embeddings[:, 0] = settings.common_direction * settings.embedding_std * embeddings.shape[1] ** 0.5
        cast(torch.Tensor, norm.weight).fill_(settings.final_norm)
        if settings.quiet_blocks:
            for module in outputs:
                cast(torch.Tensor, module.weight).zero_()
