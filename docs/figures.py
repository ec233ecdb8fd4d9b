"""Draw the plots of notes.pdf with Torchstone's own functions, and write the numbers that its pages quote.

    python docs/figures.py [FOLDER]        default: build/docs

The plots are SVG whose text stays text: Typst sets it in the page's own typeface. Seeds are fixed.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from torchstone.core import (
    fixed_length_mean,
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    sequence_mean,
    sequence_sum,
    token_log_probs,
    token_mean,
)  # fmt: skip
from torchstone.dpo import dpo_loss
from torchstone.drawing import DPO, GRPO, INK, LINE, MUTED, PPO, REINFORCE, label_ends, pyplot
from torchstone.grpo import group_advantages
from torchstone.ppo import clipped_surrogate, gae
from torchstone.reinforce import leave_one_out_advantages, reinforce_loss

MINUS, RHO = "\N{MINUS SIGN}", "\N{GREEK SMALL LETTER RHO}"
plt = pyplot()
plt.rcParams.update(
    {
        "font.size": 13,
        "axes.titlesize": 13,
        "axes.titleweight": "normal",
        "legend.frameon": False,
        "savefig.transparent": True,
    }
)


def column(values: Tensor) -> Tensor:
    """N numbers as a batch of N rows with one token each."""
    return values[:, None]


def chosen(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def save(figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def zero_lines(axis, x: float | None = 0.0, y: float | None = 0.0) -> None:
    for value, draw in ((x, axis.axvline), (y, axis.axhline)):
        if value is not None:
            draw(value, color=LINE, linewidth=1, zorder=0)


def policy_gradient_spread(folder: Path) -> dict[str, float]:
    """The sampled gradient of one logit, in batches of 8, with three baselines; and the exact gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.3, 0.0, -0.3], dtype=torch.float64)
    arm_rewards = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    batches, size = 400, 8
    probabilities = logits.softmax(-1)
    exact = float(probabilities[0] * (arm_rewards[0] - (probabilities * arm_rewards).sum()))
    actions = torch.multinomial(probabilities.expand(batches, 3), size, True, generator=generator)
    rewards = arm_rewards[actions]
    leave_one_out = rewards - leave_one_out_advantages(rewards)
    baselines = {
        "no baseline": torch.zeros_like(rewards),
        "a constant, b = 2": torch.full_like(rewards, 2.0),
        "leave-one-out": leave_one_out,
    }
    figure, axis = plt.subplots(figsize=(4.1, 3.6), layout="constrained")
    numbers = {"exact": exact}
    for place, (name, baseline) in enumerate(baselines.items()):
        gradients = []
        for action, reward, b in zip(actions, rewards, baseline, strict=True):
            z = logits.clone().requires_grad_()
            log_probs = column(z.log_softmax(-1)[action])
            loss = reinforce_loss(log_probs, reward, chosen(log_probs), reduce=sequence_sum, baseline=b)
            gradients.append(-float(torch.autograd.grad(loss.value, z)[0][0]))
        g = torch.tensor(gradients)
        jitter = torch.rand(batches, generator=generator) * 0.5 - 0.25
        axis.scatter(g, place + jitter, s=7, alpha=0.35, color=REINFORCE, linewidths=0)
        axis.errorbar(g.mean(), place, xerr=g.std(), color=INK, capsize=4, marker="o", markersize=5)
        numbers[name] = float(g.std())
    axis.axvline(exact, color=PPO, linewidth=1.5, zorder=0)
    axis.text(exact + 0.04, -0.62, "exact gradient", color=PPO, va="center")
    axis.set(
        yticks=range(3),
        yticklabels=baselines,
        ylim=(2.5, -0.85),
        xlabel="gradient of the first logit",
        xticks=[-0.5, 0, 0.5, 1],
    )
    axis.tick_params(axis="y", length=0, colors=INK)
    axis.spines["left"].set_visible(False)
    save(figure, folder / "baseline.svg")
    return numbers


def clip(folder: Path) -> None:
    """The objective (minus the loss) against the ratio, for both signs of the advantage."""
    ratios = torch.linspace(0.4, 1.6, 241, dtype=torch.float64)
    log_ratios = column(ratios.log())
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.7), layout="constrained")
    for axis, sign in zip(axes, (1.0, -1.0), strict=True):
        advantages = torch.full_like(ratios, sign)
        objective = -clipped_surrogate(
            log_ratios, torch.zeros_like(log_ratios), advantages, chosen(log_ratios), epsilon=0.2
        )[:, 0]
        flat = (ratios > 1.2) if sign > 0 else (ratios < 0.8)
        axis.axvspan(*((1.2, 1.6) if sign > 0 else (0.4, 0.8)), color="#F6E9E0", zorder=0, linewidth=0)
        axis.plot(ratios, ratios * sign, color=MUTED, linewidth=1.3, linestyle=(0, (4, 3)))
        axis.plot(ratios.masked_fill(flat, torch.nan), objective, color=PPO, linewidth=3)
        axis.plot(ratios.masked_fill(~flat, torch.nan), objective, color=PPO, linewidth=3)
        axis.plot([1], [sign], "o", color=INK, markersize=6)
        axis.set(
            title="A = +1: make the token likelier" if sign > 0 else f"A = {MINUS}1: make it less likely",
            xlabel=f"ratio {RHO}(θ)", xticks=[0.4, 0.8, 1, 1.2, 1.6], xlim=(0.4, 1.6),
            ylim=(0.3, 1.7) if sign > 0 else (-1.7, -0.3), yticks=[sign * y for y in (0.5, 1, 1.5)],
        )  # fmt: skip
    axes[0].set_ylabel("objective per token")
    axes[0].text(1.4, 0.42, "gradient 0", color=PPO, ha="center")
    axes[0].text(1.43, 1.62, f"{RHO} A", color=MUTED, ha="right", va="top")
    axes[0].text(0.97, 1.06, "start", ha="right")
    axes[1].text(0.6, -1.62, "gradient 0", color=PPO, ha="center")
    axes[1].text(0.57, -0.42, f"{RHO} A", color=MUTED, ha="left", va="top")
    axes[1].text(1.03, -0.94, "start")
    save(figure, folder / "clip.svg")


def gae_lambda(folder: Path) -> None:
    """Where one final reward ends up for four lambdas, and bias against spread with a wrong critic."""
    steps, lambdas = 16, (0.0, 0.8, 0.95, 1.0)
    rewards = torch.zeros(1, steps, dtype=torch.float64)
    rewards[0, -1] = 1
    values = torch.full_like(rewards, 0.2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.9), layout="constrained")
    shades = ("#F0B890", "#E08A4B", PPO, "#7A3508")
    for lam, shade, height in zip(lambdas, shades, (-0.08, 0.2, 0.63, 0.9), strict=True):
        advantages, _ = gae(rewards, values, chosen(rewards), gamma=1.0, lam=lam)
        left.plot(range(1, steps + 1), advantages[0], color=shade)
        left.text(7.6, height, f"λ = {lam:g}", color=shade if lam else "#B9713C", ha="right", va="center")
    zero_lines(left, None)
    left.set(xlabel="token t", ylabel="advantage", ylim=(-0.14, 1), xticks=[1, 4, 8, 12, 16])
    left.set_title("One reward, 1, at the last token; V = 0.2")

    # A random walk ends at the reward; its first step is +1, so A_1 = 1. The critic sees half of it.
    noise = torch.randn(4000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    walk = torch.cat([torch.ones(4000, 1, dtype=torch.float64), 0.5 * noise], 1).cumsum(1)
    final = torch.zeros_like(walk)
    final[:, -1] = walk[:, -1]
    critic = 0.5 * torch.cat([torch.zeros(4000, 1, dtype=torch.float64), walk[:, :-1]], 1)
    grid = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1]
    first = torch.stack([gae(final, critic, chosen(final), gamma=1.0, lam=lam)[0][:, 0] for lam in grid])
    bias, spread = (first.mean(1) - 1).abs(), first.std(1)
    right.plot(grid, bias, color=REINFORCE)
    right.plot(grid, spread, color=PPO)
    right.plot(grid, (bias**2 + spread**2).sqrt(), color=INK, linewidth=1.3, linestyle=(0, (4, 3)))
    right.text(0.02, 0.37, "bias", color=REINFORCE, va="center")
    right.text(0.02, 0.23, "standard deviation", color=PPO, va="center")
    right.text(0.02, 0.62, "both (root mean square)", color=INK)
    right.set(title="Error of the first advantage", xlabel="λ", ylim=(0, None))
    save(figure, folder / "gae.svg")


def kl_estimators(folder: Path) -> dict[str, float]:
    """Value and gradient of k1, k2, k3 for one token; their expected gradients for a policy over 3 tokens."""
    names, estimators, shades = ("k₁", "k₂", "k₃"), (kl_k1, kl_k2, kl_k3), (MUTED, DPO, GRPO)
    u = torch.linspace(-2, 2, 201, dtype=torch.float64)
    figure, axes = plt.subplots(1, 3, figsize=(8.0, 2.3), layout="constrained")
    for k, shade in zip(estimators, shades, strict=True):
        log_probs = column(u).clone().requires_grad_()
        value = k(log_probs, torch.zeros_like(log_probs), chosen(log_probs))
        (gradient,) = torch.autograd.grad(value.sum(), log_probs)
        for axis, y in ((axes[0], value.detach()[:, 0]), (axes[1], gradient[:, 0])):
            axis.plot(u, y, color=shade)
    for axis, title in ((axes[0], "Value (nats)"), (axes[1], "Gradient by log π")):
        zero_lines(axis)
        axis.set(title=title, xlabel=f"log π {MINUS} log ref")
    axes[0].set_ylim(-2.3, 4.5)
    axes[1].set_ylim(-4.5, 2.3)
    for name, shade, place in zip(names, shades, ((-0.9, -1.9), (-1.8, 0.4), (-1.5, 3.4)), strict=True):
        axes[0].text(*place, name, color=shade)

    z = torch.tensor([0.9, 0.1, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.2, 0.4, -0.2], dtype=torch.float64)
    tokens = torch.arange(3)[:, None]

    def logits_of(x: Tensor) -> Tensor:
        return x.expand(3, 1, 3)

    log_p = token_log_probs(logits_of(z), tokens, temperature=1.0)
    log_q = token_log_probs(logits_of(reference), tokens, temperature=1.0)
    weight = log_p.detach().exp()
    expected = {
        name: torch.autograd.grad((weight * k(log_p, log_q, chosen(log_p))).sum(), z, retain_graph=True)[0]
        for name, k in zip(names, estimators, strict=True)
    }
    forward = kl_exact(z.expand(1, 1, 3), reference.expand(1, 1, 3), temperature=1.0).sum()
    log_z, log_r = z.log_softmax(-1), reference.log_softmax(-1)
    backward = (log_r.exp() * (log_r - log_z)).sum()
    exact = [torch.autograd.grad(kl, z)[0] for kl in (forward, backward)]
    for name, shade, shift in zip(names, shades, (-0.27, 0, 0.27), strict=True):
        axes[2].bar(torch.arange(3) + shift, expected[name], width=0.23, color=shade)
    for gradient, label, shift, marker in zip(
        exact, ("∇ KL(π ‖ ref)", "∇ KL(ref ‖ π)"), (0, 0.27), ("D", "o"), strict=True
    ):
        axes[2].plot(torch.arange(3) + shift, gradient, marker, mfc="none", mec=INK, ms=8, label=label)
    zero_lines(axes[2], None)
    axes[2].set(title="Expected gradient", xticks=range(3), xlim=(-0.65, 2.5))
    axes[2].set_xticklabels(["token 1", "token 2", "token 3"])
    axes[2].text(-0.36, 0.01, "k₁: 0", color=MUTED, ha="center")
    axes[2].legend(loc="upper right", handletextpad=0.1, borderaxespad=0)
    save(figure, folder / "kl.svg")
    numbers = {"exact": float(forward.detach())}
    for number, k in enumerate(estimators, 1):
        numbers[f"k{number}"] = float((weight * k(log_p, log_q, chosen(log_p))).sum().detach())
    return numbers


def group(folder: Path) -> dict[str, list[float]]:
    """The advantage of a right and a wrong sample against how many of the group of 8 are right."""
    size = 8
    rewards = torch.tensor([[float(i < right) for i in range(size)] for right in range(size + 1)])
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.8), layout="constrained")
    for axis, divide in zip(axes, (True, False), strict=True):
        advantages = group_advantages(rewards, divide_by_std=divide, correction=0, eps=0.0)
        right, wrong = advantages[:, 0], advantages[:, -1]
        axis.plot(range(1, size), right[1:size], "o-", color=GRPO)
        axis.plot(range(1, size), wrong[1:size], "s-", color=MUTED)
        axis.plot([0, size], [0, 0], "D", color=INK, markersize=7)
        zero_lines(axis, None)
        axis.set_title(f"(r {MINUS} mean) / std" if divide else f"r {MINUS} mean")
        axis.set(xlabel="right answers out of 8", ylim=(-3, 3))
    axes[0].set_ylabel("advantage")
    axes[0].text(2.2, 1.9, "a right sample", color=GRPO)
    axes[0].text(5.8, -2.2, "a wrong sample", color=MUTED, ha="right")
    axes[1].text(8.2, 1.4, "all equal: exactly 0", ha="right")
    save(figure, folder / "group.svg")
    example = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    return {
        "std_population": group_advantages(example, divide_by_std=True, correction=0, eps=0.0)[0].tolist(),
        "std_sample": group_advantages(example, divide_by_std=True, correction=1, eps=0.0)[0].tolist(),
        "centred": group_advantages(example, divide_by_std=False, correction=0, eps=0.0)[0].tolist(),
        "leave_one_out": leave_one_out_advantages(example)[0].tolist(),
    }


def preferences(folder: Path) -> None:
    """The DPO loss against the margin, with and without label smoothing, and its slope."""
    margins = torch.linspace(-5, 5, 201, dtype=torch.float64)
    zeros = torch.zeros_like(margins)
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.8), layout="constrained")
    ends = []
    for smoothing, shade in ((0.0, DPO), (0.1, "#C583AC"), (0.3, MUTED)):
        chosen_log_probs = margins.clone().requires_grad_()
        losses = [
            dpo_loss(m[None], z[None], z[None], z[None], beta=1.0, label_smoothing=smoothing).value
            for m, z in zip(chosen_log_probs, zeros, strict=True)
        ]
        (slope,) = torch.autograd.grad(torch.stack(losses).sum(), chosen_log_probs)
        axes[0].plot(margins, torch.stack(losses).detach(), color=shade)
        ends.append((float(losses[-1].detach()), f"smoothing {smoothing:g}" if smoothing else "DPO", shade))
        axes[1].plot(margins, -slope, color=shade)
    axes[0].plot([0], [torch.log(torch.tensor(2.0))], "o", color=INK, markersize=6)
    axes[0].text(-4.9, 0.35, "log 2 at the start")
    axes[0].set(title="Loss (nats)", xlabel="margin h", ylim=(0, 5.2))
    axes[1].set(title=f"Push on the margin, {MINUS}dL/dh", xlabel="margin h", ylim=(-0.35, 1.05))
    zero_lines(axes[0], 0, None)
    zero_lines(axes[1])
    label_ends(axes[0], ends, 13)
    axes[1].text(0.9, 0.66, "large where the\nranking is wrong", color=DPO)
    save(figure, folder / "dpo.svg")


def reductions(folder: Path) -> dict[str, float]:
    """The weight of one token of a short and of a long completion; and four values of one worked batch."""
    lengths, columns = (1, 9), 10
    mask = torch.arange(columns) < torch.tensor(lengths)[:, None]
    reduce = {
        "token mean": token_mean,
        "sequence mean": sequence_mean,
        "sequence sum": sequence_sum,
        "fixed length (10)": lambda x, mask: fixed_length_mean(x, mask, length=columns),
    }
    figure, axis = plt.subplots(figsize=(4.1, 3.1), layout="constrained")
    numbers = {}
    for place, (name, f) in enumerate(reduce.items()):
        x = torch.where(torch.tensor([[1.0], [0.0]]) > 0, mask.float(), 0.0).requires_grad_()
        value = f(x, mask)
        (weight,) = torch.autograd.grad(value, x)
        numbers[name] = round(float(value.detach()), 6)
        bars = ((-0.19, float(weight[0, 0]), INK, "short row"), (0.19, float(weight[1, 0]), MUTED, "long row"))
        for shift, width, shade, row in bars:
            axis.barh(place + shift, width, height=0.34, color=shade, alpha=1 if shade == INK else 0.55)
            said = f"{width:.3g}" if place else f"{width:.3g}: a token of the {row}"
            axis.text(width + 0.008, place + shift, said, va="center", color=shade)
    axis.set(yticks=range(4), yticklabels=reduce, ylim=(3.6, -0.6))
    axis.set(xlim=(0, 0.6), xlabel="weight in the loss")
    axis.tick_params(axis="y", length=0, colors=INK)
    axis.spines["left"].set_visible(False)
    save(figure, folder / "reductions.svg")
    losses = torch.where(torch.tensor([[1.0], [0.0]]) > 0, mask.float(), 0.0)
    parts = [float(token_mean(x[None], m[None])) for x, m in zip(losses, mask, strict=True)]
    return {**numbers, "mean of micro-batch means": sum(parts) / 2}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clip(folder)
    gae_lambda(folder)
    preferences(folder)
    numbers = {
        "spread": policy_gradient_spread(folder),
        "kl": kl_estimators(folder),
        "group": group(folder),
        "reductions": reductions(folder),
    }
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "build" / "docs")
