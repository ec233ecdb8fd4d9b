"""How TRL 1.16.0 adds up a loss: its trainers of policies and of distillation one way, that of preferences another.

Both: accelerate wraps the model in DistributedDataParallel, which averages the ranks' gradients. Lines are those of
trl 1.16.0 and transformers 5.23.0.

GRPOTrainer sets ``loss_is_scaled_for_ga = True`` (grpo_trainer.py:285), so ``Trainer.training_step``
(transformers/trainer.py:2099-2111) adds up what micro-batches return. To ``_compute_loss`` it hands
``inputs["num_items_in_batch"]`` (grpo_trainer.py:2498): the tokens of the batch that was generated, over all ranks.
One optimizer step takes ``current_gradient_accumulation_steps / steps_per_generation`` of it (3169-3173). The rows of
a generated batch are shuffled before they are cut (1543), so that a micro-batch holds pieces of groups.

DistillationTrainer is summed alike (distillation_trainer.py:301), and divides by the tokens of the generated batch over
all ranks, which is one optimizer step's (1597, 1796-1797).

DPOTrainer sets ``loss_is_scaled_for_ga = False`` (dpo_trainer.py:494), so the same lines divide by
``current_gradient_accumulation_steps``: micro-batches are averaged. It hands no count.
"""

from torchstone.frameworks.unit import Unit

VERSION = "trl-1.16.0"

UNIT = Unit(  # of GRPOTrainer and DistillationTrainer
    framework="trl",
    version=VERSION,
    how="run",
    micro_batches="summed",
    ranks="averaged",
    wants="the sum over the micro-batch, divided by the count of the whole step over the number of ranks",
)
PAIRS = Unit(  # of DPOTrainer
    framework="trl",
    version=VERSION,
    how="run",
    micro_batches="averaged",
    ranks="averaged",
    wants="the mean over the pairs of the micro-batch",
)
