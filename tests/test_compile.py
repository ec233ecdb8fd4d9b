"""Every function but linear_loss, and the masks of the whole batch, is traced by torch.compile in one graph.

Its numbers are the same. The masks sort the tokens that the policy chose, and how many these are is data.

The tracing happens in a process of its own, with torchstone as a user imports it: torch.compile cannot trace
the annotations' checks that the other tests switch on.
"""

import subprocess
import sys

import torch
from objectives import ADVANTAGES, OBJECTIVES, REDUCTIONS

from torchstone import core, distill, dpo, ppo, reinforce
from torchstone.dpo import variants as dpo_variants
from torchstone.grpo import selection
from torchstone.grpo import variants as grpo_variants
from torchstone.ppo import variants as ppo_variants
from torchstone.reinforce import variants as reinforce_variants


def test_every_function_compiles_without_a_graph_break_to_the_same_numbers():
    child = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.split() == ["compiled", str(len(OBJECTIVES) + len(FUNCTIONS))]


def functions() -> list[tuple]:
    """The functions beside the losses, with their arguments: the advantages of objectives.py, and what has no row."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4, 6, generator=g)
    mask, z = torch.rand(4, 6, generator=g) > 0.3, torch.randn(4, 6, 9, generator=g)
    ids = torch.randint(9, (4, 6), generator=g)
    return [
        (core.completion_mask, (ids,), {"eos_id": 2}),
        (core.next_token_log_probs, (z, ids), {"temperature": 0.7}),
        (core.token_entropies, (z,), {"temperature": 0.7}),
        (core.linear_log_probs, (z, z[0], ids.clamp(max=5)), {"temperature": 0.7}),
        (core.linear_log_probs_and_entropies, (z, z[0], ids.clamp(max=5)), {"temperature": 0.7}),
        (core.linear_recurrence, (x, y), {}),
        (core.kl_exact, (z, z.flip(0)), {"temperature": 0.7}),
        (core.masked_whiten, (x, mask), {"correction": 1, "eps": 1e-8}),
        (ppo.shaped_rewards, (x[:, 0], x, y, mask), {"beta": 0.1}),
        (ppo.gae, (x, y, mask), {"gamma": 0.9, "lam": 0.8}),
        (ppo.explained_variance, (x, y, mask), {}),
        (ppo_variants.decoupled_gae, (x, y, mask), {"gamma": 0.9, "lam": y[:, 0].sigmoid(), "value_lam": 1.0}),
        (ppo_variants.length_lams, (mask,), {"alpha": 0.5}),
        (reinforce.discounted_returns, (x, mask), {"gamma": 0.9}),
        *((row.function, (x.abs(),), row.numbers) for row in ADVANTAGES),
        (reinforce_variants.whiten_completions, (x,), {"correction": 1, "eps": 1e-4, "scored": mask}),
        (
            ppo_variants.importance_weights,
            (x, y, mask),
            {"level": "token", "gate": "sequence", "low": 0.5, "high": 2.0},
        ),
        (grpo_variants.overlong_penalties, (10 * y.abs(),), {"max_length": 20, "cache": 9}),
        (grpo_variants.mixed_groups, (x,), {}),
        (grpo_variants.off_policy_weights, (x, y, x[:, 0], mask), {"limit": 0.1}),
        (grpo_variants.group_token_mean, (x, mask), {"group_size": 2}),
        (selection.covariances, (x, y[:, 0], mask), {}),
        (
            selection.future_kl_weights,
            (x, y, x[:, 0], mask),
            {"half_life": 4.0, "epsilon": 0.2, "epsilon_high": 0.3, "limit": 2.0, "reset": 1.5},
        ),
        (distill.teacher_advantages, (x, y, mask), {"gamma": 0.9}),
        *((distill.jsd_exact, (z, z.flip(0)), {"beta": beta, "temperature": 0.7}) for beta in (0.0, 0.3, 1.0)),
        *(
            (distill.jsd_top_k, (z, z.flip(0)), {"k": 3, "of": of, "rest": rest, "beta": 0.3, "temperature": 0.7})
            for of, rest in (("teacher", "tail"), ("policy", "renormalise"), ("teacher", "drop"))
        ),
        (dpo.sequence_log_probs, (x, mask), {"average": True}),
        (dpo_variants.kto_reference_point, (x[:, 0], y[:, 0]), {}),
        (dpo_variants.bco_reward_shift, (x[:, 0], y[:, 0] > 0), {}),
        (dpo_variants.log_sum_squares, (z,), {"temperature": 0.7}),
        (dpo_variants.shared_length_log_probs, (x, mask, mask.flip(0)[:, :3]), {"alpha": 0.5}),
        (dpo_variants.wpo_weights, (-x.abs(), -y.abs(), mask), {}),
    ]


FUNCTIONS = functions()


def results(objective, function) -> tuple:
    batch = objective.batch(dtype=torch.float32)
    for name in objective.gradients:
        batch[name].requires_grad_()
    loss = function(batch)
    loss.value.backward()
    metrics = {name: float(m) for name, m in loss.metrics.items()}
    return loss.value.detach(), {name: batch[name].grad for name in objective.gradients}, metrics


def main() -> None:
    for objective in OBJECTIVES:
        how = {"reduce": REDUCTIONS["sequence_mean"]} if objective.per_token else {}
        plain = lambda batch, f=objective, how=how: f(batch, **how)  # noqa: E731
        torch._dynamo.reset()
        compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(results(objective, compiled), results(objective, plain), rtol=1e-6, atol=1e-7)
    for function, arguments, options in FUNCTIONS:
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments, **options), function(*arguments, **options))
    linear_loss_in_pieces()
    print("compiled", len(OBJECTIVES) + len(FUNCTIONS))


def linear_loss_in_pieces() -> None:
    """Its graph breaks; the gradient is still the same, each time that it is asked for."""
    _, (hidden, weight, targets), options = next(f for f in FUNCTIONS if f[0] is core.linear_log_probs)
    loss, hidden = (lambda x: core.Loss(x.square().sum(), {})), hidden.clone().requires_grad_()
    plain = lambda h: core.linear_loss(h.tanh(), weight, targets, loss, **options).value  # noqa: E731
    (expected,) = torch.autograd.grad(3 * plain(hidden), hidden)
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        value = 3 * torch.compile(plain, backend=backend)(hidden)
        for _ in range(2):
            torch.testing.assert_close(torch.autograd.grad(value, hidden, retain_graph=True)[0], expected)


if __name__ == "__main__":
    main()
