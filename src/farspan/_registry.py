"""What Inspect loads through its entry point: everything of Farspan that an `inspect` command can name.

Registration only. Nothing imported here may load torch or transformers, and a broken import would only show as "not
found" on the user's screen, so a test imports this module directly.
"""

from farspan.engine.provider import farspan, farspan_diffusion
from farspan.evals.documents.inspect_task import document_task, read_document
from farspan.evals.inspect_tasks import family_task, long_context, long_context_score
from farspan.evals.judge import model_judge
from farspan.evals.ranking_inspect import icr_ranking, rank_in_context, ranking_score
from farspan.evals.tasks import DOCUMENTS, TASKS
from farspan.evals.video_inspect import ask_video, v_niah, v_ruler, video_score

tasks = {name: family_task(name) for name in TASKS}
documents = {name: document_task(name) for name in DOCUMENTS}

__all__ = [
    "ask_video",
    "documents",
    "farspan",
    "farspan_diffusion",
    "icr_ranking",
    "long_context",
    "long_context_score",
    "model_judge",
    "rank_in_context",
    "ranking_score",
    "read_document",
    "tasks",
    "v_niah",
    "v_ruler",
    "video_score",
]
