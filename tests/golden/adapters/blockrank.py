"""BlockRank: attention over blocks, scores and loss, batches, sampling of documents, parsed answers."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

OUTPUT_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-4


def attention(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.blockrank import attention_signal_logits
    from farspan.attention.segments import BlockLayout, segmented_attention

    given, expected = case["input"], case["expected"]
    query, key, value = (torch.tensor(given[name]) for name in ("q", "k", "v"))
    masks = torch.tensor(given["block_attention_mask"]).bool()
    rows = given["num_last_queries"]
    length = query.shape[2]
    for row, mask in enumerate(masks):
        layout = BlockLayout.from_block_mask(mask)
        output = segmented_attention(query[row], key[row], value[row], layout, scaling=given["scaling"])
        wanted = expected["output_valid_rows_BSHD"][row]
        assert_close(output.transpose(0, 1), wanted, rtol=0.0, atol=OUTPUT_TOLERANCE, path="output")
        allowed = layout.token_mask().int()
        assert_close(allowed, expected["allowed"][row], path="allowed")
        logits = attention_signal_logits(
            query[row : row + 1], key[row : row + 1], range(length - rows, length), given["scaling"]
        )[0]
        seen = layout.token_mask()[-rows:]
        wanted = expected["last_block_logits_valid_cols"][row]
        reference = torch.tensor([[[x or 0.0 for x in line] for line in head] for head in wanted])
        assert_close(
            logits.masked_fill(~seen, 0.0),
            reference.masked_fill(~seen, 0.0),
            rtol=LOSS_TOLERANCE,
            atol=OUTPUT_TOLERANCE,
            path="logits",
        )


def infonce(case: dict[str, Any]) -> None:
    import torch

    from farspan.attention.blockrank import attention_scores_to_documents, block_infonce
    from farspan.attention.segments import SUFFIX

    given, expected = case["input"], case["expected"]
    logits = torch.tensor(given["last_block_logits"])
    names = torch.arange(given["num_blocks"]).repeat_interleave(given["block_size"])
    names[names == given["num_blocks"] - 1] = SUFFIX
    rows = logits.shape[2]
    scores = torch.stack(
        [
            attention_scores_to_documents(logits[row : row + 1, :, [rows - count - 1, rows - count]], names[None])[0]
            for row, count in enumerate(given["num_label_tokens"])
        ]
    )
    loss, accuracy = block_infonce(scores, torch.tensor(given["answer_ids"]), given["temperature"])
    found = {"loss": float(loss), "top1_accuracy": float(accuracy), "doc_scores": scores}
    assert_close(found, expected, rtol=LOSS_TOLERANCE, atol=1e-6)


def collate(case: dict[str, Any]) -> None:
    from farspan.training.data.ranking import Blocks, collate_padded

    given, expected = case["input"], case["expected"]
    assert given.get("padding_side", "left") == "left"
    examples = [
        Blocks(tuple(map(tuple, item["blocks"][:-1])), tuple(item["blocks"][-1]), tuple(item["answers"]))
        for item in given["examples"]
    ]
    batch = collate_padded(
        examples,
        pad_token_id=given["pad_token_id"],
        query_position=given["query_position_offset"],
        multiple=given["pad_to_multiple_of"],
        max_block=given["max_block_length"],
    )
    found = {name: tensor.int().tolist() for name, tensor in batch.items()}
    assert_close({**found, "num_blocks": batch["attention_mask"].shape[1]}, expected)


def sample(case: dict[str, Any]) -> None:
    from farspan.training.data.ranking import sample_documents

    given, expected = case["input"], case["expected"]
    chosen = sample_documents(
        dict(given["documents"]),
        given["answer_ids"] or (),
        given["num_samples"],
        seed=given["seed"],
        sample=given["sample"],
        fill=given["add_padding_docs"],
    )
    assert_close({"doc_ids": list(chosen.ids), "answer_indices": list(chosen.answers)}, expected)


def parse(case: dict[str, Any]) -> None:
    from farspan.training.data.ranking import parse_id

    given = case["input"]
    assert_close(parse_id(given["text"], given.get("valid_ids")), case["expected"])


def blockrank(case: dict[str, Any]) -> None:
    given = case["input"]
    for name, adapter in (
        ("q", attention),
        ("last_block_logits", infonce),
        ("examples", collate),
        ("documents", sample),
        ("text", parse),
    ):
        if name in given:
            return adapter(case)
    raise AssertionError("a case of no known kind")


ADAPTERS = {"blockrank": blockrank}
DEFAULT = "blockrank"
