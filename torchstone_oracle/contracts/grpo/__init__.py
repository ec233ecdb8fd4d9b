"""GRPO and what came after it."""
