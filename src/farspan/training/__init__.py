"""Training: documents, packing, the trainer, whole runs from one YAML file, and fine-tuning as a lever."""

from farspan.training.clex import FlowGuard, fit_clex
from farspan.training.config import SourceConfig, Stage, TokenizerConfig, TrainConfig, TrainConfigError
from farspan.training.data import Document, DocumentSource, DocumentStream, document_ids, pack
from farspan.training.e2llm import fit_e2
from farspan.training.fine_tune import FineTune
from farspan.training.learning import teach
from farspan.training.loss import linear_cross_entropy_sum
from farspan.training.objectives import MaskedDiffusionTrainer, masked_loss, trainer_class
from farspan.training.run import train
from farspan.training.trainer import LongTrainer

__all__ = [
    "Document",
    "DocumentSource",
    "DocumentStream",
    "FineTune",
    "FlowGuard",
    "LongTrainer",
    "MaskedDiffusionTrainer",
    "SourceConfig",
    "Stage",
    "TokenizerConfig",
    "TrainConfig",
    "TrainConfigError",
    "document_ids",
    "fit_clex",
    "fit_e2",
    "linear_cross_entropy_sum",
    "masked_loss",
    "pack",
    "teach",
    "train",
    "trainer_class",
]
