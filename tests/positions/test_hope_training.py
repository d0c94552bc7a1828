"""Training with the method: a tiny model learns to find a plate among few frames and is asked about many."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from farspan.evals.tasks.video_frames import COLOURS, Plate, haystack_frame, plate_frame
from farspan.evals.video_model import patches_of
from farspan.positions import Hope
from farspan.positions.multimodal import Layout
from tests.vision_models import VIDEO, VISION_END, VISION_START, Inputs, vision_model

SIDE = 28
SHORT, LONG = 8, 128
ASKED = 1


class Videos:
    """Batches of videos of single-token frames, one of which shows a plate; the answer is its colour."""

    def __init__(self) -> None:
        hay = [haystack_frame(0, 7 * index, SIDE, SIDE) for index in range(120)]
        plates = [
            plate_frame(Plate(colour=colour, number=number), number, SIDE, SIDE)
            for colour in COLOURS
            for number in range(10, 90, 10)
        ]
        patches = torch.from_numpy(patches_of([*hay, *plates])).unflatten(0, (-1, 4))
        self.hay, self.plates = patches[: len(hay)], patches[len(hay) :].unflatten(0, (len(COLOURS), -1))

    def batch(self, frames: int, size: int, generator: torch.Generator) -> tuple[Inputs, torch.Tensor]:
        drawn = self.hay[torch.randint(len(self.hay), (size, frames), generator=generator)]
        colours = torch.randint(len(self.plates), (size,), generator=generator)
        numbers = torch.randint(self.plates.shape[1], (size,), generator=generator)
        drawn[torch.arange(size), torch.randint(frames, (size,), generator=generator)] = self.plates[colours, numbers]
        ids = torch.tensor([[VISION_START, *[VIDEO] * frames, VISION_END, ASKED]]).expand(size, -1)
        inputs = {
            "input_ids": ids,
            "mm_token_type_ids": 2 * (ids == VIDEO).int(),
            "pixel_values_videos": drawn.flatten(0, 2),
            "video_grid_thw": torch.tensor([[frames, 2, 2]]).expand(size, -1),
        }
        return inputs, 10 + colours


def accuracies(layout: Layout, videos: Videos) -> tuple[float, float]:
    """Share of right colours at the trained number of frames, and at sixteen times as many."""
    model: PreTrainedModel = vision_model(seed=0)
    generator = torch.Generator().manual_seed(0)
    steps = 250
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    with Hope(layout=layout)(model):
        model.train()
        for _ in range(steps):
            inputs, answers = videos.batch(SHORT, 16, generator)
            loss = torch.nn.functional.cross_entropy(model(**inputs, use_cache=False).logits[:, -1], answers)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        found = []
        for frames in (SHORT, LONG):
            inputs, answers = videos.batch(frames, 100, torch.Generator().manual_seed(1))
            with torch.no_grad():
                said = model(**inputs, use_cache=False).logits[:, -1].argmax(-1)
            found.append(float((said == answers).float().mean()))
    return found[0], found[1]


@pytest.mark.slow
def test_beyond_the_trained_frames_it_finds_more_than_the_models_own_layout() -> None:
    videos = Videos()
    short, long = accuracies("hope", videos)
    own_short, own_long = accuracies("mrope", videos)
    # Both have learned what is asked, so the difference beyond is one of positions.
    assert min(short, own_short) > 0.9
    assert long > own_long
