"""Stage 2 (requirement 2.2): five rules, a quality score, three splits."""

from tasks.filter.run import FilterResult, TooFewRowsError, filter_rows, sft_row

__all__ = ["FilterResult", "TooFewRowsError", "filter_rows", "sft_row"]
