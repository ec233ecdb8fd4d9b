"""How verl 0.9.1 adds up a loss. Lines are those of verl 0.9.1.

``ppo_loss`` writes the counts of the whole mini-batch into ``config.global_batch_info`` before it calls a loss
(workers/utils/losses.py:65-68): ``batch_num_tokens``, the tokens that the mask keeps, over all ranks
(workers/engine/fsdp/transformer_impl.py:730-734); ``global_batch_size``, its rows, those without a token included
(trainer/ppo/v1/trainer_base.py:1845-1851); ``dp_size``, the ranks; ``loss_scale_factor``, a setting.
Micro-batches call ``backward`` one after the other and add up (transformer_impl.py:740-763). FSDP averages the ranks'
gradients, so verl's own ``agg_loss`` multiplies by ``dp_size`` (trainer/ppo/core_algos.py:1180-1206).
"""

from torchstone.frameworks.unit import Unit
from torchstone.frameworks.verl.rows import VERSION

UNIT = Unit(
    framework="verl",
    version=VERSION,
    how="run",
    micro_batches="summed",
    ranks="averaged",
    wants="the sum over the micro-batch, divided by the count of the whole mini-batch over the number of ranks",
)
