"""On-policy distillation, by enumeration: what each form's value and gradient are in expectation."""

import enumeration as tiny
import torch

from torchstone.core import kl_exact, sequence_sum
from torchstone.distill import distill_loss, jsd_exact, jsd_loss, jsd_top_k, teacher_advantages


def test_DISTILL_1_advantages_by_hand():
    log_probs, teacher = torch.tensor([[-2.0, 9.0, -1.0, -4.0]]), torch.tensor([[-1.0, 9.0, -3.0, -0.5]])
    mask = torch.tensor([[True, False, True, True]])
    advantages = teacher_advantages(log_probs, teacher, mask, gamma=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.875, 0.0, -0.25, 3.5]]))  # 1 - 0.125; -2 + 1.75; 3.5


def test_DISTILL_2_the_ends_are_the_two_directions_of_kl():
    z, t = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jsd_exact(z, t, beta=1.0, temperature=2.0), kl_exact(z, t, temperature=2.0))
    torch.testing.assert_close(jsd_exact(z, t, beta=0.0, temperature=2.0), kl_exact(t, z, temperature=2.0))


def test_DISTILL_3_k_equal_to_the_vocabulary_is_the_whole_divergence():
    z, t = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = jsd_exact(z, t, beta=0.3, temperature=1.0)
    for rest in ("tail", "renormalise", "drop"):
        found = jsd_top_k(z, t, k=5, of="teacher", rest=rest, beta=0.3, temperature=1.0)
        torch.testing.assert_close(found, exact)


def test_DISTILL_4_at_gamma_1_the_gradient_is_that_of_the_completions_kl():
    theta, teacher = tiny.parameters(0), tiny.parameters(7).detach()
    p, q = tiny.probabilities(theta), tiny.probabilities(teacher)
    true = tiny.gradient((p * (p.log() - q.log())).sum(), theta)
    loss = distill_loss(
        tiny.log_probs(theta), tiny.log_probs(teacher), tiny.mask, reduce=tiny.expected(theta), gamma=1.0
    )
    torch.testing.assert_close(tiny.gradient(loss.value, theta), true)


def test_DISTILL_5_the_loss_is_the_reduced_divergence():
    z, t = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True], [False, True, True]])
    loss = jsd_loss(z, t, mask, reduce=sequence_sum, beta=0.3, temperature=1.0)
    torch.testing.assert_close(loss.value, jsd_exact(z, t, beta=0.3, temperature=1.0)[mask].sum() / 2)
