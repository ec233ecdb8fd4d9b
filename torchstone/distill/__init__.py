"""On-policy distillation: a teacher's log-probs in place of a reward. Equations and symbols are in README.md."""

from torchstone.distill.advantages import teacher_advantages
from torchstone.distill.divergence import jsd_exact, jsd_top_k
from torchstone.distill.loss import distill_loss, jsd_loss

__all__ = ["teacher_advantages", "jsd_exact", "jsd_top_k", "distill_loss", "jsd_loss"]
