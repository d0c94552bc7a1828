"""A random model with a byte-level tokenizer, saved as any user's checkpoint."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.training.config import SourceConfig, TokenizerConfig
from farspan.training.run import train_tokenizer


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("random")
    (root / "text").mkdir()
    (root / "text" / "a.txt").write_text("the number of the line in the record is the register content. " * 50)
    corpus = SourceConfig(
        source="farspan.training.data.text:TextFiles", settings={"folder": str(root / "text"), "held_out": 0.0}
    )
    (root / "text" / "b.txt").write_text("one two three")
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=512, corpus=(corpus,)), 1024)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return root / "model"
