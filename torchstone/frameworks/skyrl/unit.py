"""How SkyRL 0.3.0 adds up a loss. Lines are those of skyrl 0.3.0.

The trainer divides the advantages of each mini-batch by its tokens, or by what else ``loss_reduction`` says, before it
cuts the mini-batch over ranks and micro-batches (train/trainer.py:1438-1479 calls
``apply_loss_reduction_to_advantages_minibatch``, backends/skyrl_train/utils/ppo_utils.py:1095-1163). A loss is handed
those advantages and a mask, and no count, and returns a sum (``reduce_loss``, ppo_utils.py:1088-1092). Micro-batches
call ``backward`` one after the other; the worker multiplies by the ranks, over which FSDP averages
(backends/skyrl_train/workers/worker.py:982-991): both are summed. Megatron's worker likewise
(workers/megatron/megatron_model_wrapper.py:820-829).

The worker adds KL and entropy itself, weighted by a micro-batch's share of its rank's rows (worker.py:956-989): the KL
is a mean over rows of means over tokens; the entropy a mean over a micro-batch's tokens, so it depends on the split.
"""

from torchstone.frameworks.skyrl.rows import VERSION
from torchstone.frameworks.unit import Unit

UNIT = Unit(
    framework="skyrl",
    version=VERSION,
    how="run: its registries, its reductions, a micro-batch of its worker; read: how these add up",
    micro_batches="summed",
    ranks="summed",
    wants="the sum over the micro-batch, with the advantages as they come: divided by the count of the mini-batch",
    divided_by="advantages",
)
