"""The presentation: what its slides say, and how they are drawn."""
