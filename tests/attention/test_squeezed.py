"""Squeezed attention in models: exact where nothing is dropped, whatever the grouping, and honest about fallbacks."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention import (
    PrefixCache,
    Squeezed,
    SqueezeError,
    apply_attention,
    attention_report,
    build_prefix_cache,
    calibrate_thresholds,
    grouped_attention,
    load_prefix,
    remove_attention,
    save_prefix,
    squeezed_attention,
)
from farspan.attention.clustered_keys import ClusteredLayer, clusters_of
from farspan.attention.prefix_files import DESCRIPTION, TENSORS
from farspan.errors import LeverNotApplicable
from farspan.recipe import Recipe
from tests.attention.conftest import tiny_model

P, W = 300, 32


def tokens(rows: int, count: int, seed: int) -> Tensor:
    return torch.randint(3, 97, (rows, count), generator=torch.Generator().manual_seed(seed))


CONTEXT = tokens(1, P, 1)


def built(model: PreTrainedModel, folder: Path, **settings: object) -> PrefixCache:
    cache = build_prefix_cache(model, CONTEXT[0].tolist(), observation_window=W, **settings)  # type: ignore[arg-type]
    save_prefix(cache, folder)
    return cache


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def folder(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    built(model, folder, coarse_ratio=0.02)
    return folder


def read(model: PreTrainedModel, cache: PrefixCache, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, past_key_values=cache.to_cache()).logits
    return logits


def plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.cat([CONTEXT.expand(len(ids), -1), ids], 1)).logits[:, P:]
    return logits


@pytest.mark.parametrize("name", ["llama", "llama-mha", "qwen3", "gpt-oss"])
@pytest.mark.parametrize("length", [1, 7])
def test_nothing_dropped_is_dense_attention(name: str, length: int, tmp_path: Path) -> None:
    model = tiny_model(name)
    cache = built(model, tmp_path, coarse_ratio=0.02)
    ids = tokens(2, length, 2)
    expected = plain(model, ids)
    for selection in ("kv_head", "query_head"):
        for hierarchical in (False, True):
            lever = Squeezed(
                prefix=str(tmp_path), sparsity=0.0, min_length=0, selection=selection, hierarchical=hierarchical
            )
            with lever(model):
                torch.testing.assert_close(read(model, cache, ids), expected, atol=2e-5, rtol=2e-5)
                assert sum(layer.sparse for layer in attention_report(model)) == 2 * len(cache.clustered)


def test_generation_with_nothing_dropped_gives_the_same_tokens(model: PreTrainedModel, folder: Path) -> None:
    ids = torch.cat([CONTEXT, tokens(1, 5, 3)], 1)
    expected = model.generate(ids, max_new_tokens=8, do_sample=False)
    beams = model.generate(ids, max_new_tokens=5, num_beams=3, do_sample=False)
    lever = Squeezed(prefix=str(folder), sparsity=0.0, min_length=0)
    with lever(model):
        got = model.generate(ids, past_key_values=lever.load().to_cache(), max_new_tokens=8, do_sample=False)
        stats = attention_report(model)
        searched = model.generate(
            ids, past_key_values=lever.load().to_cache(), max_new_tokens=5, num_beams=3, do_sample=False
        )
    assert torch.equal(got, expected)
    assert torch.equal(searched, beams)
    assert all(layer.sparse == 8 and not layer.fallbacks for layer in stats)


def test_less_is_read_at_higher_sparsity_and_close_to_what_was_asked(model: PreTrainedModel, folder: Path) -> None:
    cache = load_prefix(folder)
    shares = [statistics.mean(cache.kept_fractions(s).values()) for s in (0.0, 0.5, 0.7, 0.9)]
    assert shares == sorted(shares, reverse=True)
    for sparsity, share in zip((0.0, 0.5, 0.7, 0.9), shares, strict=True):
        assert share == pytest.approx(1 - sparsity, abs=0.05)
    # one that was not calibrated when the context was read
    assert cache.threshold(0.7)[0] < cache.threshold(0.8123)[0] < cache.threshold(0.9)[0]
    densities = []
    for sparsity in (0.5, 0.9):
        with Squeezed(prefix=str(folder), sparsity=sparsity, min_length=0)(model):
            read(model, cache, tokens(1, 4, 5))
            densities.append([layer.density for layer in attention_report(model)])
    assert sum(densities[1]) < sum(densities[0]) < 2


def test_the_order_of_clusters_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 90, 8, generator=generator), torch.randn(2, 90, 8, generator=generator)
    labels = torch.randint(9, (2, 80), generator=generator)
    query = torch.randn(1, 4, 3, 8, generator=generator)
    other = torch.randperm(9, generator=generator)
    outputs = []
    for names in (labels, other[labels]):
        found = clusters_of(keys[:, :80], names, count=9)
        layer = ClusteredLayer.of(keys, values, names, found)
        outputs.append(squeezed_attention(query, keys[None, :, 80:], values[None, :, 80:], layer, 0.0125))
    for one, same in zip(*outputs, strict=True):
        torch.testing.assert_close(one, same)
    assert 0 < float(outputs[0][2].sum()) < 3 * 2 * 80


def test_blocks_of_queries_select_for_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(1, 200, 8, generator=generator), torch.randn(1, 200, 8, generator=generator)
    labels = torch.randint(20, (1, 150), generator=generator)
    layer = ClusteredLayer.of(keys, values, labels, clusters_of(keys[:, :150], labels))
    query = torch.randn(1, 2, 10, 8, generator=generator)
    near = keys[None, :, 150:], values[None, :, 150:]
    whole, _, cells = squeezed_attention(query, *near, layer, 0.008, query_block=5)
    for begin in (0, 5):
        rows = slice(begin, begin + 5)
        # the last rows' own keys are the last of the recent ones
        end = 50 - 10 + begin + 5
        part, _, _ = squeezed_attention(query[:, :, rows], near[0][:, :, :end], near[1][:, :, :end], layer, 0.008)
        torch.testing.assert_close(whole[:, :, rows], part)
    _, _, every = squeezed_attention(query, *near, layer, 0.008, floor=1.0)
    assert float(every.sum()) == 10 * 150
    _, _, half = squeezed_attention(query, *near, layer, 0.9, floor=0.5)
    assert 10 * 75 <= float(half.sum()) < 10 * 110
    assert float(cells.sum()) < 10 * 150


def test_rows_with_another_context_are_dense(model: PreTrainedModel, folder: Path) -> None:
    changed = CONTEXT.clone()
    changed[0, 77] = 3 + (changed[0, 77] - 2) % 94
    ids = tokens(1, 4, 6)
    batch = torch.cat([torch.cat([CONTEXT, ids], 1), torch.cat([changed, ids], 1)])
    with torch.no_grad():
        expected = model(batch).logits[1, P:]
        with Squeezed(prefix=str(folder), sparsity=0.9, min_length=0)(model):
            cache = model(batch[:, :P], use_cache=True).past_key_values
            logits = model(batch[:, P:], past_key_values=cache).logits
            single = model(batch[:, -1:], past_key_values=cache).logits
            stats = attention_report(model)
    torch.testing.assert_close(logits[1], expected, atol=2e-5, rtol=2e-5)
    assert single.isfinite().all()
    for layer in stats:
        # the first row is squeezed in both calls, the second in neither
        assert layer.sparse == 2
        assert layer.fallbacks == {"context not read yet": 2, "another context": 2}


def test_a_padded_row_and_batches_select_alone(model: PreTrainedModel, folder: Path) -> None:
    ids = tokens(2, 4, 7)
    alone = []
    with Squeezed(prefix=str(folder), sparsity=0.8, min_length=0)(model):
        cache = load_prefix(folder)
        alone = [read(model, cache, row[None])[0, -1] for row in ids]
        together = read(model, cache, ids)[:, -1]
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), CONTEXT, ids[:1]], 1)
        mask = (torch.arange(padded.shape[1]) >= 3).long()[None]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            first = model(padded[:, : 3 + P], attention_mask=mask[:, : 3 + P], position_ids=positions[:, : 3 + P])
            last = model(
                padded[:, 3 + P :],
                attention_mask=mask,
                position_ids=positions[:, 3 + P :],
                past_key_values=first.past_key_values,
            ).logits[0, -1]
    for row, expected in enumerate(alone):
        torch.testing.assert_close(together[row], expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(last, alone[0], atol=2e-4, rtol=2e-4)


def test_the_model_is_left_as_found(model: PreTrainedModel, folder: Path) -> None:
    ids = tokens(1, 5, 8)
    before = plain(model, ids)
    attributes = [set(vars(module)) for module in model.modules()]
    lever = Squeezed(prefix=str(folder), sparsity=0.9, min_length=0)
    apply_attention(model, lever)
    assert not torch.equal(read(model, lever.load(), ids), before)
    remove_attention(model)
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(plain(model, ids), before)


def test_a_context_of_another_model_or_other_rotary_frequencies_is_refused(
    model: PreTrainedModel, folder: Path
) -> None:
    lever = Squeezed(prefix=str(folder), min_length=0)
    other = tiny_model("llama")
    with torch.no_grad():
        next(iter(other.parameters()))[0] += 1
    with pytest.raises(LeverNotApplicable, match="other weights"), lever(other):
        pytest.fail("the body must not run")
    with pytest.raises(LeverNotApplicable, match="rotary"), Recipe([*Recipe.parse("ntk:factor=2"), lever])(model):
        pytest.fail("the body must not run")
    with lever(model):
        pass


def test_a_context_read_with_a_position_lever_works_with_it(model: PreTrainedModel, tmp_path: Path) -> None:
    with Recipe.parse("ntk:factor=2")(model):
        cache = built(model, tmp_path)
    recipe = Recipe([*Recipe.parse("ntk:factor=2"), Squeezed(prefix=str(tmp_path), sparsity=0.0, min_length=0)])
    ids = tokens(1, 3, 9)
    with Recipe.parse("ntk:factor=2")(model):
        expected = plain(model, ids)
    with recipe(model):
        torch.testing.assert_close(read(model, cache, ids), expected, atol=2e-5, rtol=2e-5)


def test_saved_and_loaded_contexts_are_the_same(model: PreTrainedModel, folder: Path) -> None:
    first, second = build_prefix_cache(model, CONTEXT[0].tolist(), observation_window=W), load_prefix(folder)
    assert (first.ids, first.window, first.model, first.rope) == (second.ids, second.window, second.model, second.rope)
    assert first.threshold(0.9) == pytest.approx(second.threshold(0.9))
    for one, other in zip(first.layers, second.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("damage", ["missing", "cut", "ids", "threshold"])
def test_a_damaged_folder_says_so(damage: str, folder: Path, tmp_path: Path) -> None:
    save_prefix(load_prefix(folder), tmp_path)
    text = (tmp_path / DESCRIPTION).read_text()
    if damage == "missing":
        (tmp_path / TENSORS).unlink()
    elif damage == "cut":
        (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:1000])
    elif damage == "ids":
        (tmp_path / DESCRIPTION).write_text(text.replace('"tokens_hash": "', '"tokens_hash": "0'))
    else:
        (tmp_path / DESCRIPTION).write_text(text.replace('"0.9": 0', '"0.9": 1e999', 1))
    with pytest.raises(SqueezeError) as caught:
        load_prefix(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_squeezed_says_so(model: PreTrainedModel) -> None:
    with pytest.raises(SqueezeError, match="at least 120"):
        build_prefix_cache(model, list(range(100)))
    with pytest.raises(SqueezeError, match="no layer"):
        build_prefix_cache(tiny_model("mistral-sliding"), CONTEXT[0].tolist())
    with pytest.raises(SqueezeError, match="no layer"):
        build_prefix_cache(tiny_model("deepseek-v3"), CONTEXT[0].tolist())
    with pytest.raises(SqueezeError, match="no context yet"), Squeezed()(model):
        pytest.fail("the body must not run")
    one_level = build_prefix_cache(model, CONTEXT[0].tolist(), observation_window=W)
    with pytest.raises(SqueezeError, match="coarse_ratio"):
        one_level.threshold(0.9, hierarchical=True)


def test_a_cache_keeps_its_context(model: PreTrainedModel, folder: Path) -> None:
    cache = load_prefix(folder).to_cache()
    with torch.no_grad():
        first = model(tokens(2, 4, 3), past_key_values=cache).logits
        with pytest.raises(SqueezeError, match="stays whole"):
            cache.crop(P - 1)
        cache.crop(P)
        assert cache.get_seq_length() == P
        again = model(tokens(2, 4, 3), past_key_values=cache).logits
        cache.reorder_cache(torch.tensor([1, 0]))  # type: ignore[arg-type]
        swapped = model(tokens(2, 1, 5), past_key_values=cache).logits
        cache.reset()
        assert cache.get_seq_length() == P
        fresh = model(tokens(2, 4, 3).flip(0), past_key_values=cache).logits
        after = model(tokens(2, 1, 5), past_key_values=cache).logits
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(fresh, first.flip(0))
    torch.testing.assert_close(swapped, after)


SECOND_PROCESS = """
import sys, torch
from tests.attention.conftest import tiny_model
from farspan.attention import Squeezed
torch.set_num_threads(1)
lever = Squeezed(prefix=sys.argv[1], sparsity=0.8, min_length=0)
model = tiny_model("llama")
with lever(model), torch.no_grad():
    ids = torch.tensor([eval(sys.argv[2])])
    print(model(ids, past_key_values=lever.load().to_cache()).logits[0].argmax(-1).tolist())
"""


@pytest.mark.slow
def test_a_second_process_answers_the_same(model: PreTrainedModel, folder: Path) -> None:
    ids = tokens(1, 9, 11)
    with Squeezed(prefix=str(folder), sparsity=0.8, min_length=0)(model):
        here = read(model, load_prefix(folder), ids)[0].argmax(-1).tolist()
    command = [sys.executable, "-c", SECOND_PROCESS, str(folder), str(ids[0].tolist())]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert there.stdout.split("\n")[0] == str(here)


@pytest.mark.timing
def test_decoding_reads_a_tenth_and_is_three_times_as_fast() -> None:
    torch.set_num_threads(1)
    length, window, heads, group, dim = 16384, 100, 8, 4, 128
    count = length - window
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(heads, count // 20, dim, generator=generator)
    labels = torch.randint(count // 20, (heads, count), generator=generator)
    keys = torch.randn(heads, length, dim, generator=generator) * 0.5
    keys[:, :count] += centres.gather(1, labels[..., None].expand(-1, -1, dim))
    values = torch.randn(heads, length, dim, generator=generator)
    found = clusters_of(keys[:, :count], labels)
    query = torch.randn(1, heads * group, 1, dim, generator=generator)
    limit = calibrate_thresholds([query[0]], [found], [0.9], per_query_head=False)["0.9"]
    layer = ClusteredLayer.of(keys, values, labels, found)
    near = keys[None, :, count:], values[None, :, count:]
    assert float(squeezed_attention(query, *near, layer, limit)[2].sum()) == pytest.approx(
        0.1 * heads * count, rel=0.05
    )
    sides: tuple[Callable[[], object], ...] = (
        lambda: grouped_attention(query, keys[None], values[None]),
        lambda: squeezed_attention(query, *near, layer, limit),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(12):
        for run, taken in zip(sides, seconds, strict=True):
            started = time.process_time()
            run()
            taken.append(time.process_time() - started)
    ratio = statistics.median(seconds[0][2:]) / statistics.median(seconds[1][2:])
    assert ratio >= 3.0
