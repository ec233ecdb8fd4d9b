"""How prime-rl adds up a loss. Lines are those of PrimeIntellect-ai/prime-rl at 559b447, in src/prime_rl/trainer/rl.

``compute_loss`` calls the loss once for each sequence of a packed micro-batch (loss.py:358-384), with ``LossInputs``
(loss.py:13-28): log-probs of the trainer and of the engine that sampled, advantages, a mask, each [T], and no count. It
adds the results up and divides by ``rl_scale`` (loss.py:394), the tokens that the mask keeps, over all micro-batches
and ranks (train.py:307-323). Micro-batches call ``backward`` one after the other (train.py:479). FSDP averages the
ranks' gradients, which train.py:555-558 undoes: they are summed.
"""

from torchstone.frameworks.unit import Unit

COMMIT = "559b44772e471d1538537b8805cc77f3824a5e64"

UNIT = Unit(
    framework="prime-rl",
    version=f"prime-rl-{COMMIT[:7]}",
    how=f"read at {COMMIT[:7]}",
    micro_batches="summed",
    ranks="summed",
    wants="the sum over one sequence's tokens; the trainer divides by the tokens of the whole step",
    divided_by="tokens",
)
