"""How tinker 0.38.0 adds up a loss. Lines are those of tinker 0.38.0.

``forward_backward_custom(data, loss)`` calls the loss once, on this machine, with all of ``data`` and the log-probs of
each datum's tokens, a list of float32 tensors (lib/public_interfaces/training_client.py:646-665). Its gradient is sent
back as the weights of a cross-entropy (673-688), cut into requests as they fit, whose gradients the server sums. So the
whole of ``data`` is one piece. Gradients of several calls add up until ``optim_step`` (resources/training.py:34).
"""

from torchstone.frameworks.unit import Unit

VERSION = "tinker-0.38.0"

UNIT = Unit(
    framework="tinker",
    version=VERSION,
    how="run, without its server",
    micro_batches="summed",
    ranks="summed",
    wants="the loss of the whole data; with several calls before optim_step, with the count of all of them",
)
