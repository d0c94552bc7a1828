"""The common base of attention levers: a selector with its settings, switched on through `attn_implementation`.

A method is one subclass that answers `select`; everything else (padding, chunks, caches, fallbacks, reports, exact
restoring) happens in `interface` and `switch` and is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from farspan.attention.executors import Backend
from farspan.attention.interface import register
from farspan.attention.selection import Attended, AttentionContext, Selection
from farspan.attention.switch import Switch
from farspan.errors import LeverNotApplicable
from farspan.recipe import Lever

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache


def _power_of_two(size: int) -> int:
    if size < 16 or size & (size - 1):
        raise ValueError("must be a power of two of at least 16")
    return size


BlockSize = Annotated[int, AfterValidator(_power_of_two)]


class AttentionLever(Lever):
    """Makes a model's attention read only what `select` chooses.

    backend : the executor, `auto` for the fastest on this machine
    min_length : keys below which attention stays dense; None takes the length measured on this machine from which
        the method pays, and also leaves calls with fewer queries than a block to dense attention
    stage : `prefill` leaves single new tokens to dense attention, `all` selects for them too
    dense_layers : layers that stay dense
    strict : raise instead of falling back to dense attention
    """

    slot: ClassVar[str] = "attention"

    backend: Backend = "auto"
    min_length: Annotated[int, Field(ge=0)] | None = None
    stage: Literal["prefill", "all"] = "prefill"
    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    strict: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[arg-type]
        if "name" in cls.__dict__:
            register(cls)

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        """Choose what this call reads; None for everything.

        query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, Lkv, D]; no padding in either
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement select")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        """Compute the call here, for a method that reads more, or otherwise, than a plan over these keys can say.

        Arguments as in `select`, for one row. A text is the reason to attend densely; None leaves it to `select`.
        """
        return None

    def prepared(self, model: PreTrainedModel) -> AbstractContextManager[object]:
        """What the method puts beside the attention modules while it is on, and takes away again."""
        return nullcontext()

    def known_contexts(self) -> Iterable[tuple[Sequence[int], Cache]]:
        """Contexts the lever holds already read: token ids, and their keys and values in a cache of one row."""
        return ()

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        """Floating-point operations one call of `select` takes, for the report of costs."""
        return 0.0

    @property
    def implementation(self) -> str:
        """The name under which transformers knows this method, `farspan_<name>`."""
        return f"farspan_{self.name.replace('-', '_')}"

    def check(self, config: PretrainedConfig) -> None:
        text = config.get_text_config(decoder=True)
        layers = getattr(text, "num_hidden_layers", None)
        if layers is None or getattr(text, "num_attention_heads", None) is None:
            raise LeverNotApplicable(f"lever '{self.name}' needs a decoder with attention, not {type(text).__name__}")
        if beyond := [index for index in self.dense_layers if index >= layers]:
            raise LeverNotApplicable(
                f"lever '{self.name}': dense_layers names layer {beyond[0]}, the model has layers 0 to {layers - 1}"
            )

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        switch = Switch(model, self)
        switch.on()
        try:
            yield
        finally:
            switch.off()
