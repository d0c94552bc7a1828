"""An Inspect scorer that asks a second model: the judge of the model roles, by the questions of the sample's family.

Scores by rules need no judge; this one stands beside them where a family has a rubric. What is asked is the family's
business.
"""

from __future__ import annotations

from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import TaskState

from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import family_class, score_sample

ROLE = "judge"


@scorer(
    metrics=[
        mean(),
        stderr(cluster="shared_context_key"),
        grouped(mean(), "length", all=False, name_template="length {group_name}"),
        grouped(mean(), "task", all=False, name_template="task {group_name}"),
    ]
)
def model_judge() -> Scorer:
    """The score a judge gives; give one with `--model-role judge=MODEL`, else the evaluated model judges itself.

    The score by rules stands in the metadata, so that both can be compared.
    """

    async def ask(prompt: str) -> str:
        output = await get_model(role=ROLE).generate(prompt, config=GenerateConfig(temperature=0.0))
        return output.completion

    async def score(state: TaskState, target: Target) -> Score:
        sample = LongSample.model_validate({**dict(state.metadata["sample"]), "context": ""})
        output = state.output.completion
        figures = await family_class(sample.benchmark).judged(sample, output, ask)
        by_rules = score_sample(sample, output)["score"]
        return Score(value=figures["score"], answer=output, metadata={**figures, "by_rules": by_rules})

    return score
