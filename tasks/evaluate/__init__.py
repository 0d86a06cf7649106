"""Evaluation: lm-evaluation-harness on every method (2.5.1), and the comparison drawn from its answers (2.5.2)."""
