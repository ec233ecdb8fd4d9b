"""Every named algorithm as its paper has it: those that learn from samples, and those that learn from pairs.

``stated`` says of each number where the paper states it; quotation marks stand only around text that was read. Where it
is "not stated" or "not read", the value is the usual one, so that the row can be run. docs/sources.md says how each
paper was read.
"""
