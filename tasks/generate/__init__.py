"""Magpie: instructions and responses from an instruct model's own template."""
