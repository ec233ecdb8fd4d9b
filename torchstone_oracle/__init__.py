"""Torchstone's objectives a second time, from the papers: plain Python loops over mpmath, no torch.

Read the equations in ``core``, ``reinforce``, ``ppo``, ``grpo`` and ``dpo``; the tags are those of the READMEs. What is
known to go wrong with each stands in ``contracts``, one file for each objective; ``python -m torchstone_oracle FOLDER``
writes the vectors.
"""
