"""Stage 3 (requirement 2.3): which instructions are answered, and best against worst of three responses."""

from tasks.prefer.pairs import (
    PairResult,
    TooFewPairsError,
    choose_instructions,
    dpo_row,
    first_request,
    make_pairs,
    next_request,
    quotas,
    select_pairs,
    shortage,
)
from tasks.prefer.statistics import pair_statistics

__all__ = [
    "PairResult",
    "TooFewPairsError",
    "choose_instructions",
    "dpo_row",
    "first_request",
    "make_pairs",
    "next_request",
    "pair_statistics",
    "quotas",
    "select_pairs",
    "shortage",
]
