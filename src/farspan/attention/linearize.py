"""Linearize: softmax layers of any decoder give way to lightning layers that are taught to do what they did.

Every `keep_every`-th layer keeps its softmax attention, since linear layers alone cannot look things up. The new layers
start from the projections of the old ones. They are taught first layer by layer, each to give the output of the layer
it replaces on the same input, and then together, to give the logits of the whole model. The learned layers are saved
beside the recipe; the model's own weights stay as they are.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2, for layers and layout; the conversion is ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.models.lightning import Backend, LightningAttention
from farspan.models.lightning.slopes import FULL, LINEAR
from farspan.recipe import Lever

# hidden states that a layer was given, its output, and the mask and positions it was given
Seen = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Linearize(Lever):
    """Replace softmax layers by lightning layers.

    Fields
    ------
    keep_every : every so-manieth layer keeps its softmax attention
    gate : whether new layers gate their output
    tokens : tokens to learn from; a half layer by layer, a half together
    learning_rate : peak, of AdamW
    weights : path of the learned layers, set by `fit`; without it, layers as they start, which read nothing yet
    """

    name: ClassVar[str] = "linearize"
    slot: ClassVar[str] = "mixer"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"
    weights_fields: ClassVar[tuple[str, ...]] = ("weights",)

    keep_every: Annotated[int, Field(ge=2)] = 8
    gate: bool = True
    tokens: Annotated[int, Field(gt=0)] = 400_000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    backend: Backend = "auto"
    weights: str | None = None

    def check(self, config: PretrainedConfig) -> None:
        text = config.get_text_config(decoder=True)
        layers = getattr(text, "num_hidden_layers", None)
        if layers is None or getattr(text, "num_attention_heads", None) is None:
            raise LeverNotApplicable(f"lever 'linearize' needs a decoder with attention, not {type(text).__name__}")
        if self.keep_every > layers:
            raise LeverNotApplicable(
                f"lever 'linearize': keep_every={self.keep_every} keeps no softmax layer of {layers}, and such a model "
                "cannot look things up; choose a smaller keep_every"
            )

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        if self.weights is None:
            raise FarspanError("lever 'linearize' has no learned layers yet; call fit, or give weights=FILE")
        found = attention_modules(model, self.keep_every)
        layers = {index: self._started(model, attention, index) for index, attention in found.items()}
        self._load(layers)
        with _in_place(model, layers):
            yield

    def fit(
        self,
        model: PreTrainedModel,
        batches: Iterable[dict[str, Tensor]],
        out: str | Path,
        *,
        batch_tokens: int,
        deadline: float | None = None,
    ) -> Linearize:
        """Teach the new layers and save them; the model itself is not changed.

        Parameters
        ----------
        batches : with `input_ids` [batch, length] and, where packed, `position_ids`
        out : the file to write, `.safetensors`
        batch_tokens : tokens of a batch
        deadline : moment of `time.monotonic()` after which no further step starts

        Returns
        -------
        This lever with `weights` set and `tokens` those it learned from.
        """
        self.check(model.config)
        found = attention_modules(model, self.keep_every)
        layers = {index: self._started(model, attention, index) for index, attention in found.items()}
        steps = max(2, self.tokens // batch_tokens)
        pace = _Pace(steps, steps // 2, deadline)
        frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        was_training = model.training
        model.eval()
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            stream = iter(batches)
            done = _teach_layers(model, found, layers, stream, self.learning_rate, pace)
            done += _teach_together(model, layers, stream, self.learning_rate, pace)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
            model.train(was_training)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        learned = {
            f"{index}.{name}": tensor.detach().contiguous()
            for index, layer in layers.items()
            for name, tensor in layer.state_dict().items()
        }
        save_file(learned, str(out))
        return self.model_copy(update={"weights": str(out), "tokens": done * batch_tokens})

    def _started(self, model: PreTrainedModel, attention: nn.Module, index: int) -> LightningAttention:
        """A lightning layer that starts from the projections of an attention module."""
        query, key, value, output = (cast(nn.Linear, getattr(attention, name)) for name in PROJECTIONS)
        head_dim = int(attention.head_dim)  # type: ignore[arg-type]
        heads = query.out_features // head_dim
        text = model.config.get_text_config(decoder=True)
        layer = LightningAttention.new(
            query.in_features, heads, head_dim, index, text.num_hidden_layers, gate=self.gate, backend=self.backend
        )
        with torch.no_grad():
            parts = []
            for projection in (query, key, value):
                per_head = projection.weight.view(-1, head_dim, query.in_features)
                parts.append(per_head.repeat_interleave(heads // len(per_head), 0))
            cast(nn.Linear, layer.qkv_proj).weight.copy_(torch.cat(parts, 1).flatten(0, 1))
            cast(nn.Linear, layer.out_proj).weight.copy_(output.weight)
            if layer.output_gate is not None:
                nn.init.zeros_(cast(nn.Linear, layer.output_gate).weight)
        return layer.to(device=query.weight.device, dtype=query.weight.dtype)

    def _load(self, layers: dict[int, LightningAttention]) -> None:
        assert self.weights is not None
        try:
            learned = load_file(self.weights)
        except (OSError, SafetensorError) as error:
            raise FarspanError(f"cannot read learned layers {self.weights}: {error}") from error
        expected = {f"{index}.{name}": x for index, layer in layers.items() for name, x in layer.state_dict().items()}
        wrong = [name for name in expected if name not in learned or learned[name].shape != expected[name].shape]
        if wrong or learned.keys() - expected.keys():
            raise FarspanError(
                f"learned layers {self.weights} do not belong to this model with keep_every={self.keep_every}"
            )
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(learned[name])


def attention_modules(model: PreTrainedModel, keep_every: int) -> dict[int, nn.Module]:
    """Attention modules to be replaced, by layer.

    Raises
    ------
    LeverNotApplicable : attention without separate projections of queries, keys, values and outputs.
    """
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if not isinstance(index, int) or not all(hasattr(module, name) for name in PROJECTIONS):
            continue
        if (index + 1) % keep_every:
            found[index] = module
    if not found:
        raise LeverNotApplicable(
            f"lever 'linearize' needs attention modules with {', '.join(PROJECTIONS)}; "
            f"{type(model).__name__} has none to replace"
        )
    return found


@contextmanager
def _in_place(model: PreTrainedModel, layers: dict[int, LightningAttention]) -> Iterator[None]:
    """Lightning layers in the places of the attention they replace; the configuration tells caches about them."""
    text = model.config.get_text_config(decoder=True)
    with ExitStack() as undo:
        wanted = set(attention_modules(model, max(layers) + 2).values())
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if child in wanted and (index := int(child.layer_idx)) in layers:  # type: ignore[arg-type]
                    setattr(module, name, layers[index].train(child.training))
                    undo.callback(setattr, module, name, child)
        if getattr(text, "layer_types", None) is None:
            total = text.num_hidden_layers
            declared = "layer_types" in vars(text)
            text.layer_types = [LINEAR if index in layers else FULL for index in range(total)]
            undo.callback(*((setattr, text, "layer_types", None) if declared else (delattr, text, "layer_types")))
        yield


class _Pace:
    """Steps of both halves, the time they may take, and their learning rate."""

    def __init__(self, steps: int, first: int, deadline: float | None) -> None:
        self.steps = {"layers": max(1, first), "together": max(1, steps - first)}
        now = time.monotonic()
        self.deadlines = {
            "layers": None if deadline is None else now + (deadline - now) / 2,
            "together": deadline,
        }

    def late(self, half: str) -> bool:
        """Whether no further step should start."""
        end = self.deadlines[half]
        return end is not None and time.monotonic() >= end

    def rate(self, half: str, step: int, peak: float) -> float:
        """A short rise, then down in a line."""
        total = self.steps[half]
        return peak * min(1.0, (step + 1) / max(1, total // 20)) * max(0.05, 1 - step / total)


def _optimizer(layers: dict[int, LightningAttention], learning_rate: float) -> torch.optim.AdamW:
    parameters = [parameter for layer in layers.values() for parameter in layer.parameters()]
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}


def _keep(
    seen: dict[int, Seen], index: int, module: nn.Module, args: object, kwargs: dict[str, Tensor], out: object
) -> None:
    """A forward hook that remembers what a layer was given and gave."""
    output = out[0] if isinstance(out, tuple) else out
    assert isinstance(output, Tensor)
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    seen[index] = (kwargs["hidden_states"].detach(), output.detach(), mask, positions)


def _teach_layers(
    model: PreTrainedModel,
    found: dict[int, nn.Module],
    layers: dict[int, LightningAttention],
    stream: Iterator[dict[str, Tensor]],
    learning_rate: float,
    pace: _Pace,
) -> int:
    """Each new layer to the output of the old one on the old one's input; steps done."""
    optimizer = _optimizer(layers, learning_rate)
    seen: dict[int, Seen] = {}
    with ExitStack() as undo:
        for index, attention in found.items():
            hook = partial(_keep, seen, index)
            undo.callback(attention.register_forward_hook(hook, with_kwargs=True).remove)
        step = 0
        for step in range(1, pace.steps["layers"] + 1):
            batch = next(stream, None)
            if batch is None or (step > 1 and pace.late("layers")):
                return step - 1
            with torch.no_grad():
                model.base_model(**_inputs(batch), use_cache=False)
            losses = []
            for index, (hidden, target, mask, positions) in seen.items():
                output, _ = layers[index](hidden, attention_mask=mask, position_ids=positions)
                scale = target.float().square().mean().clamp(min=1e-8)
                losses.append(F.mse_loss(output.float(), target.float()) / scale)
            _step(optimizer, torch.stack(losses).sum(), pace.rate("layers", step - 1, learning_rate))
    return step


def _teach_together(
    model: PreTrainedModel,
    layers: dict[int, LightningAttention],
    stream: Iterator[dict[str, Tensor]],
    learning_rate: float,
    pace: _Pace,
) -> int:
    """All new layers to the next-token distribution of the model as it was; steps done."""
    optimizer = _optimizer(layers, learning_rate)
    step = 0
    for step in range(1, pace.steps["together"] + 1):
        batch = next(stream, None)
        if batch is None or pace.late("together"):
            return step - 1
        with torch.no_grad():
            target = F.log_softmax(model(**_inputs(batch), use_cache=False).logits.float(), -1)
        with _in_place(model, layers):
            found = F.log_softmax(model(**_inputs(batch), use_cache=False).logits.float(), -1)
        loss = F.kl_div(found.flatten(0, -2), target.flatten(0, -2), log_target=True, reduction="batchmean")
        _step(optimizer, loss, pace.rate("together", step - 1, learning_rate))
    return step
