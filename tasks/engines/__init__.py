"""Models behind small protocols: generation engines and the reward model."""
