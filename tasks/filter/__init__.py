"""Stage 2 (requirement 2.2): five rules, a quality score, three splits."""
