"""Positions: levers that stretch the window of models with rotary positions.

Every method makes one object, a frequency vector with an attention factor (`RopeSpec`); one way in installs it in a
model, one way out writes it as a checkpoint that needs no Farspan. Attention patterns and training live elsewhere.
"""

from farspan.positions.angles import angle_histogram, disturbance, disturbance_of
from farspan.positions.apply import applied, apply_rope, rope_parameters_of
from farspan.positions.clex import Clex, clex_inference_t, clex_log_scale, clex_train_positions
from farspan.positions.clex_flow import ClexDynamics
from farspan.positions.distribution import Distributions, distributions
from farspan.positions.dprope import DPRoPE, DpropeResult, dprope_vector
from farspan.positions.drawn import Drawn, DrawnRotary, drawn_positions
from farspan.positions.dynamic_ntk import DynamicNTK
from farspan.positions.e2llm import E2LLM, ScaleOffsetAugment, e2_inference_scale, e2_positions
from farspan.positions.export import length_limits, save_extended
from farspan.positions.giraffe import giraffe_vector
from farspan.positions.hope import Hope, HopeRotary, save_hope
from farspan.positions.length_following import length_following
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.linear import LinearInterpolation, linear_vector
from farspan.positions.llama3 import Llama3
from farspan.positions.longrope import LongRope
from farspan.positions.longrope_score import perplexity_score, search_longrope
from farspan.positions.longrope_search import SearchResult, SearchSettings, search_factors
from farspan.positions.multimodal import (
    VisionBlock,
    channel_routing,
    fitting_scale,
    mrope_positions,
    vision_blocks,
)
from farspan.positions.ntk_aware import NTKAware, ntk_aware
from farspan.positions.ntk_critical import NTKCritical, critical_dim, ntk_lambda
from farspan.positions.pairs import PairRow, pair_rows
from farspan.positions.plan import lever_for, methods, plan_rope
from farspan.positions.position_map import RotaryWithPositions, mapped_positions
from farspan.positions.power_basis import PowerBasis, power_vector
from farspan.positions.randomized import Randomized, RandomizedPositions, randomized_positions
from farspan.positions.rerotate import rerotate_cache_
from farspan.positions.rope import RopeSpec, get_rope, rope_frequencies, to_longrope_factors
from farspan.positions.theta import ThetaRebase, suggest_rope_base
from farspan.positions.theta_schedule import (
    SCHEDULES,
    ThetaSchedule,
    ThetaStage,
    enter_stage,
    plan_schedule,
    stage_spec,
)
from farspan.positions.truncated_basis import TruncatedBasis, truncated_vector
from farspan.positions.yarn import Yarn

__all__ = [
    "E2LLM",
    "SCHEDULES",
    "Clex",
    "ClexDynamics",
    "DPRoPE",
    "Distributions",
    "DpropeResult",
    "Drawn",
    "DrawnRotary",
    "DynamicNTK",
    "Hope",
    "HopeRotary",
    "LinearInterpolation",
    "Llama3",
    "LongRope",
    "NTKAware",
    "NTKCritical",
    "PairRow",
    "PositionLever",
    "PowerBasis",
    "Randomized",
    "RandomizedPositions",
    "RopeSpec",
    "RotaryWithPositions",
    "ScaleOffsetAugment",
    "SearchResult",
    "SearchSettings",
    "Stretched",
    "ThetaRebase",
    "ThetaSchedule",
    "ThetaStage",
    "TruncatedBasis",
    "VisionBlock",
    "Yarn",
    "angle_histogram",
    "applied",
    "apply_rope",
    "channel_routing",
    "clex_inference_t",
    "clex_log_scale",
    "clex_train_positions",
    "critical_dim",
    "distributions",
    "disturbance",
    "disturbance_of",
    "dprope_vector",
    "drawn_positions",
    "e2_inference_scale",
    "e2_positions",
    "enter_stage",
    "fitting_scale",
    "get_rope",
    "giraffe_vector",
    "length_following",
    "length_limits",
    "lever_for",
    "linear_vector",
    "mapped_positions",
    "methods",
    "mrope_positions",
    "ntk_aware",
    "ntk_lambda",
    "pair_rows",
    "perplexity_score",
    "plan_rope",
    "plan_schedule",
    "power_vector",
    "randomized_positions",
    "rerotate_cache_",
    "rope_frequencies",
    "rope_parameters_of",
    "save_extended",
    "save_hope",
    "search_factors",
    "search_longrope",
    "stage_spec",
    "suggest_rope_base",
    "to_longrope_factors",
    "truncated_vector",
    "vision_blocks",
]
