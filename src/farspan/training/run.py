"""A whole training run from its YAML file: tokenizer, model, stream, trainer, checkpoints, log and final checkpoint.

Every step's batch is a function of seed and step number, so a killed run that resumes from its last checkpoint sees
the same data as one that was never interrupted.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from farspan.errors import FarspanError
from farspan.positions import PositionLever, get_rope
from farspan.recipe import Recipe
from farspan.training.config import TokenizerConfig, TrainConfig
from farspan.training.data.documents import DocumentSource, DocumentStream, build_source
from farspan.training.data.text import CorpusSource
from farspan.training.initialization import initialize
from farspan.training.objectives import trainer_class
from farspan.training.recompute import chosen
from farspan.training.trainer import BatchList, build_optimizer, cosine, training_arguments, trapezoid

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
DRAWS = 8
"""Documents drawn from each source to see how long they are."""

# Words keep their leading mark, digits stand alone, and runs of spaces and line breaks stay together.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(config: TokenizerConfig, max_length: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with single digits, trained on the texts of the configured corpora."""
    if config.path is not None:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.path)
        return loaded
    texts: list[str] = []
    for entry in config.corpus:
        source = build_source(entry, None)
        if not isinstance(source, CorpusSource):
            raise FarspanError(f"'{entry.source}' has no texts() to train a tokenizer on")
        texts += source.texts()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def build_model(settings: dict[str, object], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model from `AutoConfig` settings with random weights, or from a folder where `path` is given."""
    settings = dict(settings)
    if "path" in settings:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(settings["path"]), dtype=torch.float32)
        return loaded
    config = AutoConfig.for_model(
        str(settings.pop("model_type")),
        **settings,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


class ProgressLog(TrainerCallback):
    """A live line with loss and tokens a second, and one JSON line every logging interval."""

    def __init__(self, path: Path, batch_tokens: int, total_steps: int, console: Console) -> None:
        self.path = path
        self.batch_tokens = batch_tokens
        self.progress = Progress(
            TextColumn("train"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.bar = self.progress.add_task("train", total=total_steps, loss="-", speed="-")
        self.last = (time.monotonic(), 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.start()
        self.last = (time.monotonic(), state.global_step)
        self._forget_after(state.global_step)

    def _forget_after(self, step: int) -> None:
        """Drop log lines of steps that a resumed run will do again."""
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in lines))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.update(self.bar, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        now, (then, step) = time.monotonic(), self.last
        speed = (state.global_step - step) * self.batch_tokens / max(now - then, 1e-9)
        self.last = (now, state.global_step)
        row = {
            "step": state.global_step,
            "tokens": state.global_step * self.batch_tokens,
            "loss": round(logs["loss"], 4),
            "learning_rate": round(logs.get("learning_rate", 0.0), 6),
            "tokens_per_second": round(speed),
        }
        with self.path.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
        self.progress.update(self.bar, loss=f"{logs['loss']:.3f}", speed=f"{speed:,.0f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.stop()


def pace(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate of a step over its peak."""
    if config.schedule == "cosine":
        return cosine(step, config.warmup_steps, total, config.least_learning_rate)
    return trapezoid(step, config.warmup_steps, total, config.decay_fraction)


def check_reach(
    config: TrainConfig, recipe: Recipe, model: PreTrainedModel, sources: Mapping[str, DocumentSource]
) -> None:
    """Refuse to train with a stretched window that no document reaches into: it would teach nothing of what is new.

    Levers that spread the positions of short rows themselves need no long documents.

    Raises
    ------
    FarspanError : the documents drawn are all within the model's window.
    """
    for lever in recipe:
        if not isinstance(lever, PositionLever) or lever.factor == 1 or lever.short_rows:
            continue
        window = get_rope(model.config, lever.layer_type).target_length
        rng = random.Random(config.seed)
        drawn = [
            len(sources[name].document(rng, max(stage.lengths)).ids)
            for stage in config.stages
            for name in stage.mix
            for _ in range(DRAWS)
        ]
        if max(drawn) <= window:
            raise FarspanError(
                f"lever '{lever.name}' stretches a window of {window} tokens, but the longest of {len(drawn)} "
                f"documents has {max(drawn)}, so nothing beyond it would be trained; give longer documents and row "
                "lengths"
            )


def train(config: TrainConfig, out: Path, console: Console | None = None) -> Path:
    """Run, or go on with, the training that `config` describes.

    Parameters
    ----------
    out : folder for checkpoints, `train_log.jsonl` and `final/`, an ordinary checkpoint in bfloat16; under torchrun
        the first process writes all of them

    Returns
    -------
    The path of `final/`.

    Raises
    ------
    FarspanError : levers that exclude each other or do not fit the model, or nothing to train on.
    """
    recipe = Recipe.read(config.levers) if config.levers else Recipe()
    transformers_logging.disable_progress_bar()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    arguments = training_arguments(
        out,
        max_steps=1,
        precision=config.precision,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        save_steps=config.save_steps,
        log_steps=config.log_steps,
    )
    first, processes = arguments.process_index == 0, arguments.world_size
    total = arguments.max_steps = max(1, config.total_steps // processes)
    longest = max(length for stage in config.stages for length in stage.lengths)
    with arguments.main_process_first(local=False):
        tokenizer = _tokenizer(config, out / "tokenizer", longest)
    model = build_model(config.model, tokenizer)
    if config.initialization is not None:
        initialize(model, config.initialization)
    recipe.check(model.config)
    sources = {name: build_source(entry, tokenizer) for name, entry in config.sources.items()}
    check_reach(config, recipe, model, sources)
    resume = get_last_checkpoint(str(out))
    start = int(Path(resume).name.rpartition("-")[2]) if resume else 0
    stream = DocumentStream(
        config.stages,
        sources,
        {name: entry.loss_weight for name, entry in config.sources.items()},
        batch_tokens=config.batch_tokens,
        pad_token_id=tokenizer.pad_token_id,
        seed=config.seed,
        start_step=start,
        rank=arguments.process_index,
        ranks=processes,
    )
    stream.check()
    optimizer = build_optimizer(
        model,
        config.optimizer,
        learning_rate=config.learning_rate,
        muon_learning_rate=config.muon_learning_rate,
        weight_decay=config.weight_decay,
    )
    schedule = LambdaLR(optimizer, lambda step: pace(config, step, total))
    checkpointing, offload = chosen(
        model.config, longest, config.batch_tokens // longest, arguments.device, config.checkpointing, config.offload
    )
    progress = ProgressLog(
        out / "train_log.jsonl", config.batch_tokens * processes, total, console or Console(stderr=True)
    )
    trainer = trainer_class(model)(
        model=model,
        args=arguments,
        train_dataset=BatchList(stream),
        optimizers=(optimizer, schedule),
        callbacks=[progress] if first else [],
    )
    trainer.checkpointing, trainer.offload = checkpointing, offload
    with recipe(model):
        trainer.train(resume_from_checkpoint=resume)
    final = out / "final"
    if first:
        nn.Module.to(model, dtype=torch.bfloat16)
        model.save_pretrained(final)
        tokenizer.save_pretrained(final)
    return final


def _tokenizer(config: TrainConfig, folder: Path, longest: int) -> PreTrainedTokenizerBase:
    """The run's tokenizer, made and saved where an earlier run, or another process, has not done it."""
    if not folder.exists():
        train_tokenizer(config.tokenizer, longest).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer
