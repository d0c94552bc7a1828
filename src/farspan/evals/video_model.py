"""Asking a vision-language model about a video of thousands of frames, on one device.

Frames pass the vision tower once, in small groups, and are kept; the language model reads the sequence in pieces. Where
tokens stand is asked of the model itself, so a lever that changes positions is measured by switching it on. What is
asked, and what counts as right, is the families' business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, DynamicCache

from farspan.errors import FarspanError, ModelNotFound
from farspan.evals.tasks.video_frames import Frame
from farspan.evals.tasks.video_needles import VideoEvent, VideoSample
from farspan.models.loading import model_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_PLACE = "\x00video\x00"


class VideoModelError(FarspanError):
    """A model or tokenizer that cannot be asked about videos."""


def load_vision(
    name_or_path: str | Path, *, dtype: str = "auto", device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a vision-language model and its tokenizer, ready for inference.

    Raises
    ------
    ModelNotFound : one line that says what is missing.
    """
    path = model_path(name_or_path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        config = AutoConfig.from_pretrained(path)
        model = AutoModelForImageTextToText.from_pretrained(path, config=config, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelNotFound(f"cannot load {name_or_path} as a vision-language model: {reason}") from error
    nn.Module.to(model, device=device)
    return model.eval(), tokenizer


class VideoModel:
    """A model of the Qwen2-VL or Qwen2.5-VL classes that answers questions on videos.

    Parameters
    ----------
    model, tokenizer : the tokenizer's chat template is used where it has one
    cache : folder in which embedded haystack frames are kept between runs; None keeps them in memory alone
    group : frames that pass the vision tower at once
    chunk : tokens that pass the language model at once

    Raises
    ------
    VideoModelError : the model has no vision tower and language model in the places of these classes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        cache: str | Path | None = None,
        group: int = 32,
        chunk: int = 2048,
    ) -> None:
        inner: Any = getattr(model, "model", None)
        if not all(hasattr(inner, name) for name in ("visual", "language_model", "get_rope_index")):
            raise VideoModelError(
                f"{type(model).__name__} is not asked about videos; give a model of type qwen2_vl or qwen2_5_vl"
            )
        self.model: Any = model
        self.inner = inner
        self.tokenizer: Any = tokenizer
        self.cache = None if cache is None else Path(cache).expanduser()
        self.group = group
        self.chunk = chunk
        self._known: dict[str, torch.Tensor] = {}
        self._tower = ""

    @property
    def tokens_per_side(self) -> int:
        """Pixels along one side of the square that becomes a token."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    @torch.inference_mode()
    def forced(self, sample: VideoSample) -> bool:
        """Whether the model, given the right answer, would have said each of its tokens.

        Source: arXiv 2406.16852, section 3.
        """
        before, after = self.prompt(sample)
        answer = self._encode(sample.answer)
        hidden, _, _ = self._read(sample, before, after + answer)
        said = self.model.lm_head(hidden[:, -len(answer) - 1 : -1]).argmax(-1)[0]
        return bool(said.tolist() == answer)

    @torch.inference_mode()
    def generate(self, sample: VideoSample, max_new_tokens: int = 0) -> str:
        """The answer the model gives, its likeliest token at each step, up to the end of a line.

        `max_new_tokens` is by default what the expected answer takes, and eight more.
        """
        limit = max_new_tokens or len(self._encode(sample.answer)) + 8
        before, after = self.prompt(sample)
        hidden, cache, position = self._read(sample, before, after)
        ends = self._ends()
        said: list[int] = []
        for step in range(limit):
            token = int(self.model.lm_head(hidden[:, -1]).argmax(-1))
            if token in ends:
                break
            said.append(token)
            if "\n" in self.tokenizer.decode(said).lstrip() or step == limit - 1:
                break
            embeds = self.inner.language_model.embed_tokens(torch.tensor([[token]], device=self.model.device))
            rows = torch.full((3, 1, 1), position + step, device=self.model.device)
            hidden = self.inner.language_model(
                inputs_embeds=embeds, position_ids=rows, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return str(self.tokenizer.decode(said, skip_special_tokens=True))

    def prompt(self, sample: VideoSample) -> tuple[list[int], list[int]]:
        """Token ids before and after the video."""
        config = self.model.config
        if getattr(self.tokenizer, "chat_template", None):
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{_PLACE}{sample.question} {sample.instruction}"}],
                tokenize=False,
                add_generation_prompt=True,
            )
            if text.count(_PLACE) != 1:
                raise VideoModelError("the tokenizer's chat template does not repeat the user's text as it is")
            before, after = text.split(_PLACE)
        else:
            before, after = "", f"\n{sample.question}\n{sample.answer_prefix}"
        start, end = [config.vision_start_token_id], [config.vision_end_token_id]
        return self._encode(before) + start, end + self._encode(after)

    def embed(self, sample: VideoSample) -> torch.Tensor:
        """The frames of a sample as the language model gets them: [frames, tokens a frame, hidden]."""
        parts = list(sample.order())
        taken = sum(not isinstance(part, VideoEvent) for part in parts)
        haystack = self._haystack(sample, taken)
        found = torch.empty(len(parts), *haystack.shape[1:], dtype=haystack.dtype)
        plain = torch.tensor([not isinstance(part, VideoEvent) for part in parts])
        found[plain] = haystack[:taken]
        if sample.events:
            found[~plain] = self._embedded(sample.draw(part) for part in parts if isinstance(part, VideoEvent))
        return found

    def _read(self, sample: VideoSample, before: list[int], after: list[int]) -> tuple[torch.Tensor, Any, float]:
        """Last hidden states of (at least) the tokens behind the video, the cache, and the position that follows."""
        config, device = self.model.config, self.model.device
        frames = self.embed(sample)
        patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
        count = sample.tokens(patch, merge)
        ids = torch.tensor([*before, *[config.video_token_id] * count, *after], device=device)[None]
        positions, _ = self.inner.get_rope_index(
            ids,
            mm_token_type_ids=2 * (ids == config.video_token_id).int(),
            video_grid_thw=torch.tensor([sample.grid(patch)], device=device),
        )
        cache = DynamicCache(config=config.get_text_config())
        flat = frames.flatten(0, 1)
        kept: list[torch.Tensor] = []
        for start in range(0, ids.shape[1], self.chunk):
            end = min(start + self.chunk, ids.shape[1])
            embeds = self.inner.language_model.embed_tokens(ids[:, start:end])
            first, last = max(start, len(before)), min(end, len(before) + count)
            if first < last:
                piece = flat[first - len(before) : last - len(before)].to(embeds)
                embeds = torch.cat([embeds[:, : first - start], piece[None], embeds[:, last - start :]], dim=1)
            hidden = self.inner.language_model(
                inputs_embeds=embeds, position_ids=positions[..., start:end], past_key_values=cache, use_cache=True
            ).last_hidden_state
            if end > ids.shape[1] - len(after):
                kept.append(hidden)
        return torch.cat(kept, dim=1), cache, float(positions[0, 0, -1]) + 1

    def _haystack(self, sample: VideoSample, count: int) -> torch.Tensor:
        """At least `count` embedded frames of the sample's haystack, from memory or disk where they are known."""
        key = hashlib.sha256(
            f"{self._tower_hash()} {sample.haystack} {sample.haystack_seed} {sample.height} {sample.width}".encode()
        ).hexdigest()[:32]
        known = self._known.get(key)
        path = None if self.cache is None else self.cache / f"frames-{key}.safetensors"
        if known is None and path is not None and path.is_file():
            known = load_file(path)["frames"]
        have = 0 if known is None else len(known)
        if have < count or known is None:
            more = self._embedded(sample.draw(index) for index in range(have, max(count, 1)))
            known = more if known is None else torch.cat([known, more])
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                # A file that is read by another process meanwhile must not be half written.
                partial = path.with_suffix(".partial")
                save_file({"frames": known.contiguous()}, partial)
                partial.replace(path)
        self._known = {key: known}
        return known

    @torch.inference_mode()
    def _embedded(self, frames: Iterator[Frame]) -> torch.Tensor:
        """Frames through the vision tower, each on its own: [frames, tokens a frame, hidden], kept on the CPU."""
        config = self.model.config.vision_config
        found = []
        while group := [frame for _, frame in zip(range(self.group), frames, strict=False)]:
            height, width = (side // config.patch_size for side in group[0].shape[:2])
            pixels = patches_of(group, config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
            grid = torch.tensor([[1, height, width]] * len(group), device=self.model.device)
            tower = self.inner.visual
            output = tower(torch.from_numpy(pixels).to(self.model.device, tower.dtype), grid_thw=grid).pooler_output
            found.append(output.reshape(len(group), -1, output.shape[-1]).cpu())
        return torch.cat(found)

    def _tower_hash(self) -> str:
        if not self._tower:
            digest = hashlib.sha256(self.model.config.vision_config.to_json_string().encode())
            for name, tensor in self.inner.visual.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            self._tower = digest.hexdigest()
        return self._tower

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)] if text else []

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        found = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        return {token for token in found if token is not None}


def patches_of(
    frames: Sequence[Frame], patch_size: int = 14, temporal_patch_size: int = 2, spatial_merge_size: int = 2
) -> NDArray[np.float32]:
    """Frames as a vision tower of the Qwen2-VL classes takes them, each standing for a whole temporal patch.

    Patches that are merged into one token follow each other. Colours are normalised with the means of these classes.

    Parameters
    ----------
    frames : uint8 [height, width, 3], both sides multiples of `patch_size * spatial_merge_size`

    Returns
    -------
    float32 [frames * height / patch_size * width / patch_size, 3 * temporal_patch_size * patch_size**2]

    Raises
    ------
    VideoModelError : a side that does not divide into tokens.
    """
    stacked: NDArray[np.float32] = np.stack(list(frames)).astype(np.float32) / np.float32(255)
    count, height, width, _ = stacked.shape
    side = patch_size * spatial_merge_size
    if height % side or width % side:
        raise VideoModelError(f"frames of {height} x {width} pixels do not divide into tokens; use multiples of {side}")
    mean, std = (np.array(values, dtype=np.float32) for values in (MEAN, STD))
    normalised = np.divide(stacked - mean, std, dtype=np.float32)
    grid = normalised.transpose(0, 3, 1, 2).reshape(
        count, 3, height // side, spatial_merge_size, patch_size, width // side, spatial_merge_size, patch_size
    )
    flat = grid.transpose(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3, 1, patch_size * patch_size)
    patches: NDArray[np.float32] = np.repeat(flat, temporal_patch_size, axis=2).reshape(len(flat), -1)
    return patches
