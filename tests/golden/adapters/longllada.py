"""Masked diffusion: the law of the base, schedules, the sampling loop on a toy model, numbers of masks, perplexity."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close


class _ToyDenoiser:
    """The model that the cases define by a formula, in float64."""

    eos_token_id = None

    def __init__(self, vocab_size: int, mask_token_id: int) -> None:
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id

    def __call__(self, ids: Any, visible: Any, start: int, end: int) -> Any:
        import torch
        from torch.nn import functional

        x = ids.double()
        left, right = functional.pad(x, (1, 0))[:, :-1], functional.pad(x, (0, 1))[:, 1:]
        places = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)
        inner = 0.37 * places + 0.11 * left + 0.05 * right + 0.013 * x.sum(1, keepdim=True)
        tokens = torch.arange(1, self.vocab_size + 1, dtype=torch.float64)
        logits = 3 * torch.sin(0.61 * tokens * inner[..., None] + 0.3 * tokens)
        return logits[:, start:end]


def ntk_lambda(case: dict[str, Any]) -> None:
    from farspan.positions import critical_dim
    from farspan.positions import ntk_lambda as compute

    given = case["input"]
    model = (given["rope_theta"], given["head_dim"], given["train_length"])
    targets = given["target_length"]
    found = [
        {
            "critical_dim": critical_dim(*model),
            "lambda_raw": compute(*model, target, "none"),
            "lambda": compute(*model, target),
        }
        for target in (targets if isinstance(targets, list) else [targets])
    ]
    assert_close(found if isinstance(targets, list) else found[0], case["expected"], rtol=1e-8)


def num_transfer_tokens(case: dict[str, Any]) -> None:
    import torch

    from farspan.engine import num_transfer_tokens as compute

    given = case["input"]
    assert_close(compute(torch.tensor(given["mask_counts"]), given["steps"]), case["expected"])


def generate_masked_diffusion(case: dict[str, Any]) -> None:
    import torch

    from farspan.engine import DiffusionConfig
    from farspan.engine import generate_masked_diffusion as compute

    given = case["input"]
    names = ("steps", "gen_length", "block_length", "cfg_scale", "temperature", "remasking")
    config = DiffusionConfig(**{name: given[name] for name in names if name in given})
    prompt = torch.tensor(given["prompt"])
    single = prompt.ndim == 1
    denoiser = _ToyDenoiser(given["vocab_size"], given["mask_id"])
    found = compute(denoiser, prompt[None] if single else prompt, config)
    assert_close(found[0] if single else found, case["expected"])


def likelihood_mask_counts(case: dict[str, Any]) -> None:
    from farspan.engine import likelihood_mask_counts as compute

    given = case["input"]
    assert_close(compute(given["k"], given["batch"], given["target_len"]), case["expected"])


def cumulative_perplexity(case: dict[str, Any]) -> None:
    from farspan.engine import cumulative_perplexity as compute

    assert_close(compute(case["input"]["chunk_ppl"]), case["expected"], rtol=1e-8)


ADAPTERS = {
    "ntk_lambda": ntk_lambda,
    "num_transfer_tokens": num_transfer_tokens,
    "generate_masked_diffusion": generate_masked_diffusion,
    "likelihood_mask_counts": likelihood_mask_counts,
    "cumulative_perplexity": cumulative_perplexity,
}
