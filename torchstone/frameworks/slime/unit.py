"""How slime adds up a loss. Lines are those of THUDM/slime at 624b824, in slime/backends/megatron_utils.

A custom loss is called once for each micro-batch, ``f(args, batch, logits, sum_of_sample_mean)`` (loss.py:1335-1342).
``batch`` has lists, one tensor a sample: ``advantages``, ``loss_masks``, ``log_probs`` (the trainer's old ones),
``ref_log_probs``, ``rollout_log_probs`` (the engine's), and for each sample its rollout's tokens
(``rollout_mask_sums``). What it returns is multiplied by the micro-batches and the ranks, and divided by the rollouts
of the step (loss.py:1353-1359); Megatron divides by the micro-batches and averages the ranks. So pieces are summed, and
the sum divided by the rollouts of the step.

With ``--calculate-per-token-loss`` that is left out (loss.py:1361), and Megatron divides by the tokens of the step.
There a sample without a token counts as one token (loss.py:1317).
"""

from torchstone.frameworks.unit import Unit

COMMIT = "624b824a898ab0ec1fcb4d373004c7f3852bf515"

UNIT = Unit(
    framework="slime",
    version=f"slime-{COMMIT[:7]}",
    how=f"read at {COMMIT[:7]}",
    micro_batches="summed",
    ranks="summed",
    wants="the sum over the completions of a micro-batch; slime divides by the rollouts of the whole step",
    divided_by="completions",
)
