"""Torchstone's objectives a second time: plain Python loops over mpmath, no torch.

Written from the equations in the READMEs of ``torchstone/``. Which of them were read in their papers, and which in
their authors' code or in accounts of others, stands in docs/sources.md.

Read the equations in ``core``, ``reinforce``, ``ppo``, ``grpo`` and ``dpo``; the tags are those of the READMEs. What is
known to go wrong with each stands in ``contracts``, one file for each objective; ``python -m torchstone_oracle FOLDER``
writes the vectors.
"""
