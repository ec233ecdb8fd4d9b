"""Rows of on-policy distillation: each runs, names what it lacks, and is what its source says, written out by hand."""

import math
from functools import partial

import pytest
import torch

from torchstone.distill import jsd_top_k
from torchstone.recipes import RECIPES, Choice, DistillRecipe, find
from torchstone.recipes.choices import TENSORS
from torchstone.reinforce import reinforce_surrogate

ROWS = [row for row in RECIPES.values() if isinstance(row, DistillRecipe)]
PUBLISHED = [row for row in ROWS if "@" not in row.name]
B, T, V = 4, 5, 120
same = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
SIZES = {"max_length": T, "group_size": 2}


def batch(seed=0):
    """What any row may need: ragged rows with a hole, a policy that has moved, an engine that is a little off."""
    g = torch.Generator().manual_seed(seed)
    logits, teacher = (1.5 * torch.randn(B, T, V, generator=g, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(V, (B, T), generator=g)
    off = [0.5 * torch.randn(B, T, generator=g, dtype=torch.float64) for _ in range(2)]
    mask = torch.arange(T) < torch.tensor([[5], [2], [4], [5]])
    mask[0, 2] = False
    of = lambda x: x.log_softmax(-1).gather(-1, ids[..., None])[..., 0]  # noqa: E731
    advantages = torch.randn(B, generator=g, dtype=torch.float64)
    return {
        "mask": mask, "ids": ids, "logits": logits, "teacher_logits": teacher, "log_probs": of(logits),
        "teacher_log_probs": of(teacher), "old_log_probs": of(logits) + off[0],
        "sampler_log_probs": of(logits) + off[0] + 0.3 * off[1], "advantages": advantages,
    }  # fmt: skip


def given(row, b):
    return row.used("loss", {**b, **SIZES})


def run(row, b, **how):
    """Value, gradients by the policy's tensors, metrics."""
    tensors = given(row, b)
    leaves = {k: tensors[k].clone().requires_grad_() for k in ("logits", "log_probs") if k in tensors}
    loss = row.loss(b["mask"], **tensors | leaves | how)
    found = torch.autograd.grad(loss.value, list(leaves.values()), allow_unused=True)
    zeros = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves.values(), strict=True)]
    return loss.value.detach(), dict(zip(leaves, zeros, strict=True)), {k: float(m) for k, m in loss.metrics.items()}


# ------------------------------------------------------------------------------------------------- every row runs


@rows
def test_what_lies_under_the_mask_never_matters(row):
    b = batch()
    dirty = {k: v if k in ("mask", "ids", "advantages") else v.clone() for k, v in b.items()}
    for name, x in dirty.items():
        if name not in ("mask", "ids", "advantages"):
            x[~b["mask"]] = math.nan
    same(run(row, b), run(row, dirty))


@rows
def test_micro_batches_add_up(row):
    b = batch()
    value, gradients, _ = run(row, b)
    count = {"token-mean": b["mask"].sum()}.get(row.reduction.name, B)
    halves = [run(row, {k: v[at] for k, v in b.items()}, denominator=count) for at in (slice(0, 1), slice(1, B))]
    same(halves[0][0] + halves[1][0], value)
    for name, gradient in gradients.items():
        same(torch.cat([half[1][name] for half in halves]), gradient)


@rows
def test_the_policy_learns_and_says_how_far_the_teacher_is(row):
    value, gradients, metrics = run(row, batch())
    assert value.isfinite() and all(g.isfinite().all() for g in gradients.values())
    moved = {name for name, g in gradients.items() if g.any()}
    assert moved == {"logits" if "logits" in row.needs() else "log_probs"}
    assert ("jsd" in metrics) == ("logits" in row.needs()) == ("kl" not in metrics)
    assert ("approx_kl" in metrics) == (row.ratio.name != "none")


@rows
def test_the_teacher_and_the_past_are_constants(row):
    b = batch()
    tensors = given(row, b)
    constants = {k: x.requires_grad_() for k, x in tensors.items() if k not in ("logits", "log_probs", *SIZES)}
    policy = {k: x.clone().requires_grad_() for k, x in tensors.items() if k in ("logits", "log_probs")}
    loss = row.loss(b["mask"], **tensors | constants | policy)
    found = torch.autograd.grad(loss.value, list(constants.values()), allow_unused=True)
    assert not any(g is not None and g.any() for g in found)


# ------------------------------------------------------------------------------------------------------ bad input


@rows
def test_a_missing_tensor_is_named_with_the_choice_that_needs_it(row):
    b = batch()
    assert "mask" not in row.needs() and row.needs()
    for name in row.needs():
        with pytest.raises(ValueError, match=f"^{name}: the recipe {row.name} needs ") as e:
            row.loss(b["mask"], **given(row, b) | {name: None})
        assert TENSORS[name] in str(e.value) and ", since " in str(e.value)


@rows
def test_a_tensor_that_the_row_would_ignore_is_refused(row):
    b = batch()
    for name in set(b) - {"mask", "ids", *row.takes()}:
        with pytest.raises(ValueError, match=f"^{name}: the recipe {row.name} does not use it in loss"):
            row.loss(b["mask"], **given(row, b), **{name: b[name]})


def test_another_vocabulary_is_named(unchecked):
    b = batch()
    with pytest.raises(ValueError, match=r"^teacher_logits: expected the policy's vocabulary of 120 tokens, got 130$"):
        RECIPES["opd-exact"].loss(b["mask"], logits=b["logits"], teacher_logits=torch.randn(B, T, 130))
    with pytest.raises(ValueError, match=r"^k: expected an integer from 1 to the vocabulary's 60, got 100$"):
        small = {name: b[name][..., :60] for name in ("logits", "teacher_logits")}
        RECIPES["opd-topk-tail"].loss(b["mask"], **small)
    with pytest.raises(ValueError, match=r"^teacher_log_probs: expected .* \[4, 5\], got float64 \[4, 4\]$"):
        RECIPES["opd-k3"].loss(b["mask"], log_probs=b["log_probs"], teacher_log_probs=b["log_probs"][:, :4])
    with pytest.raises(ValueError, match=r"^logits: expected .* \[4, 5, 120\], got float64 \[4, 4, 120\]$"):
        RECIPES["opd-exact"].loss(b["mask"], logits=b["logits"][:, :4], teacher_logits=b["teacher_logits"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("opd:surrogate=none+ratio=none", "surrogate: expected policy-gradient or importance or clip or cispo, since"),
        ("opd-k3:surrogate=policy-gradient", "surrogate: expected none or truncated-ratio, since signal is k3"),
        ("opd:ratio=none", "ratio: expected one other than none, since surrogate is importance, got none"),
        ("opd-exact:ratio=token", "ratio: expected none, since surrogate is none, got token"),
        ("opd-exact:outcome=added+outcome.coef=1", "outcome: expected none, since signal is jsd"),
        ("opd-k3:weight=prefix+weight.gamma=1+weight.eps=1", "weight: expected none, since signal is k3"),
        ("opd-exact:signal.kk=3", "signal: jsd takes beta, temperature, got .kk."),
        ("opd:signal=jsd", "signal: jsd takes beta, temperature, got jsd"),
    ],
)
def test_a_row_of_choices_that_do_not_go_together(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        find(text)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("gkd", {"signal": Choice("jsd", beta=1.5, temperature=1.0)}),
        ("gkd", {"signal": Choice("jsd", beta=0.5, temperature=0.0)}),
        ("opd-sequence", {"signal": Choice("teacher-advantage", gamma=2.0)}),
        ("opd-k3", {"bound": Choice("clamp", limit=0.0)}),
        ("iw-opd", {"weight": Choice("prefix", gamma=-1.0, eps=1e-8)}),
        ("iw-opd", {"weight": Choice("prefix", gamma=0.5, eps=0.0)}),
        ("sdpo", {"surrogate": Choice("truncated-ratio", cap=0.0)}),
    ],
)
def test_a_number_outside_its_limits_is_named(name, numbers):
    (key,) = {
        k for at, x in numbers.items() for k, v in x.numbers.items() if RECIPES[name].numbers().get(f"{at}.{k}") != v
    }
    row, b = RECIPES[name].but(**numbers), batch()
    with pytest.raises(ValueError, match=f"^{key}: expected "):
        row.loss(b["mask"], **given(row, b))


# ------------------------------------------------------- rows from their sources, one token at a time, with plain loops


def tokens(b):
    """(row, place, weight of nothing) of each chosen token."""
    return [(i, t) for i in range(B) for t in range(T) if b["mask"][i, t]]


def mean_of_rows(losses):
    """[{(row, place): loss}] -> the mean over completions of their means."""
    per_row = [[x for (i, _), x in losses.items() if i == row] for row in range(B)]
    return sum(sum(xs) / len(xs) for xs in per_row) / B


def mean_of_tokens(losses):
    return sum(losses.values()) / len(losses)


def probabilities(b, i, t):
    return torch.softmax(b["logits"][i, t], 0), torch.softmax(b["teacher_logits"][i, t], 0)


def kl(p, q):
    return sum(x * torch.log(x / y) for x, y in zip(p, q, strict=True))


def jensen_shannon(p, q, beta):
    m = [beta * y + (1 - beta) * x for x, y in zip(p, q, strict=True)]
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def with_the_rest(p, q, k):
    """The k likeliest tokens of p, and one more with what is left, of both."""
    top = sorted(range(V), key=lambda v: -float(p[v]))[:k]
    return [[*(x[v] for v in top), 1 - sum(x[v] for v in top)] for x in (p, q)]


def by_hand_opd(b):
    """tinker-cookbook: advantage -(sampled - teacher) per token; importance sampling; the sum over a completion."""
    total = 0.0
    for i, t in tokens(b):
        advantage = b["teacher_log_probs"][i, t] - b["sampler_log_probs"][i, t]
        total = total - torch.exp(b["log_probs"][i, t] - b["sampler_log_probs"][i, t]) * advantage
    return total / B


def by_hand_opd_sequence(b):
    """REINFORCE on the KL between completions: a token's cost is the log-ratio of itself and of all that follow."""
    total = 0.0
    for i, t in tokens(b):
        later = [s for j, s in tokens(b) if j == i and s >= t]
        gain = sum((b["teacher_log_probs"][i, s] - b["log_probs"][i, s]).detach() for s in later)
        total = total - gain * b["log_probs"][i, t]
    return total / B


def by_hand_opd_exact(b):
    return mean_of_tokens({at: kl(*probabilities(b, *at)) for at in tokens(b)})


def by_hand_opd_forward(b):
    """GKD, eq. 2 and 4: the mean over a completion of KL(teacher || student)."""
    return mean_of_rows({at: kl(*reversed(probabilities(b, *at))) for at in tokens(b)})


def by_hand_opd_topk_tail(b):
    return mean_of_tokens({at: kl(*with_the_rest(*probabilities(b, *at), 100)) for at in tokens(b)})


def by_hand_opd_k3(b):
    """Schulman's k3 of student and teacher, no score function."""
    gaps = {at: b["teacher_log_probs"][at] - b["log_probs"][at] for at in tokens(b)}
    return mean_of_tokens({at: torch.exp(u) - u - 1 for at, u in gaps.items()})


def by_hand_gkd(b):
    """GKD, eq. 1 and 2."""
    return mean_of_rows({at: jensen_shannon(*probabilities(b, *at), 0.5) for at in tokens(b)})


def by_hand_mopd(b):
    """MiMo-V2-Flash, eq. 7 and 8."""
    losses = {}
    for at in tokens(b):
        ratio = torch.exp(b["log_probs"][at] - b["sampler_log_probs"][at]).detach()
        weight = ratio if 0.2 <= ratio <= 5.0 else 0.0
        advantage = (b["teacher_log_probs"][at] - b["log_probs"][at]).detach()
        losses[at] = -weight * advantage * b["log_probs"][at]
    return mean_of_rows(losses)


def by_hand_sdpo(b):
    """The authors' compute_self_distillation_loss: JSD of 101 masses, two weights, the mean over tokens."""
    losses = {}
    for at in tokens(b):
        divergence = jensen_shannon(*with_the_rest(*probabilities(b, *at), 100), 0.5)
        moved = torch.exp(b["log_probs"][at] - b["old_log_probs"][at]).detach().clamp(max=2.0)
        engine = torch.exp(b["old_log_probs"][at] - b["sampler_log_probs"][at]).clamp(max=2.0)
        losses[at] = divergence * moved * engine
    return mean_of_tokens(losses)


def by_hand_iw_opd(b):
    """Weights 1 + gamma (1 - what lies before / the whole), of |A|; PPO's clip, with the dual one."""
    losses, gaps = {}, {at: (b["teacher_log_probs"][at] - b["log_probs"][at]).detach() for at in tokens(b)}
    for i, t in gaps:
        before = sum(abs(a) for (j, s), a in gaps.items() if j == i and s < t)
        whole = sum(abs(a) for (j, _), a in gaps.items() if j == i)
        advantage = (1 + 0.5 * (1 - before / whole)) * gaps[i, t]
        ratio = torch.exp(b["log_probs"][i, t] - b["old_log_probs"][i, t])
        loss = torch.maximum(-ratio * advantage, -ratio.clamp(0.8, 1.2) * advantage)
        losses[i, t] = torch.minimum(loss, -3.0 * advantage) if advantage < 0 else loss
    return mean_of_tokens(losses)


BY_HAND = {
    "opd": by_hand_opd, "opd-sequence": by_hand_opd_sequence, "opd-exact": by_hand_opd_exact,
    "opd-forward": by_hand_opd_forward, "opd-topk-tail": by_hand_opd_topk_tail, "opd-k3": by_hand_opd_k3,
    "gkd": by_hand_gkd, "mopd": by_hand_mopd, "sdpo": by_hand_sdpo, "iw-opd": by_hand_iw_opd,
}  # fmt: skip


def test_every_published_row_is_written_out():
    assert set(BY_HAND) == {row.name for row in PUBLISHED}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_row_is_what_its_source_says(name):
    b = batch(1)
    value, gradients, _ = run(RECIPES[name], b)
    for key in gradients:
        b[key] = b[key].requires_grad_()
    by_hand = BY_HAND[name](b)
    same(value, by_hand.detach())
    for key, gradient in gradients.items():
        (expected,) = torch.autograd.grad(by_hand, b[key], retain_graph=True, allow_unused=True)
        same(gradient, torch.zeros_like(gradient) if expected is None else expected)


def test_iw_opd_of_trl_compares_the_teacher_with_the_engine_that_sampled():
    """IWOPDTrainer._compute_iw_opd_loss: ``rollout_logprobs``, which vLLM reported."""
    row, b = find("iw-opd@trl-1.16.0"), batch()
    assert "sampler_log_probs" in row.needs() and "old_log_probs" not in row.takes()
    moved = b | {"sampler_log_probs": b["sampler_log_probs"] + 0.1}
    assert run(row, moved)[0] != run(row, b)[0]


def test_the_tasks_advantage_is_added_to_the_teachers():
    row, b = find("mopd:outcome=added+outcome.coef=0.5+sampler=none"), batch()
    _, gradients, _ = run(row, b)
    earned = b["teacher_log_probs"] - b["log_probs"] + 0.5 * b["advantages"][:, None]
    same(gradients["log_probs"], -(earned * b["mask"]) / b["mask"].sum(1, keepdim=True) / B)


def test_a_bound_cuts_an_advantage_and_stops_a_loss():
    b = batch()
    gap = ((b["teacher_log_probs"] - b["log_probs"]) * b["mask"]).clamp(-1, 1)
    same(
        run(find("mopd:sampler=none+bound=clamp+bound.limit=1"), b)[1]["log_probs"],
        -gap / b["mask"].sum(1)[:, None] / B,
    )
    k3 = torch.expm1(b["teacher_log_probs"] - b["log_probs"]) - (b["teacher_log_probs"] - b["log_probs"])
    stopped = run(find("opd-k3:bound=clamp+bound.limit=1"), b)[1]["log_probs"] == 0
    assert ((k3 > 1) & b["mask"]).any()
    assert (stopped == ((k3 > 1) | ~b["mask"])).all()


def test_a_kl_of_k_tokens_as_an_advantage_teaches_nothing():
    """The number is the same whichever token was sampled: over the policy's samples its gradient is 0."""
    logits, teacher = (x[:1, :1].expand(V, 1, V).clone() for x in (batch()["logits"], batch()["teacher_logits"]))
    top = {"k": 10, "of": "policy", "rest": "renormalise", "beta": 1.0, "temperature": 1.0}
    penalty = jsd_top_k(logits, teacher, **top)
    p, all_tokens = logits[0, 0].softmax(-1), torch.arange(V)
    log_probs = logits.requires_grad_().log_softmax(-1).gather(-1, all_tokens[:, None, None])[..., 0]
    losses = reinforce_surrogate(log_probs, -penalty, torch.ones(V, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad((p[:, None] * losses).sum(), logits)
    assert penalty[0, 0] > 0.1 and gradient.abs().max() > 1e-3
    same(gradient.sum(0), torch.zeros(1, V, dtype=torch.float64))
