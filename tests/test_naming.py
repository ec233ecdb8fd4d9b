"""The checker names what it is shown: functions made of the oracle with one or two of its alternatives.

Their values come from the oracle, and so do their gradients: to the value is added something that is 0 and has that
slope. NaN slopes cannot be made in this way; alternatives that show themselves by them only are left out.
"""

import inspect
import itertools
import re

import numpy as np
import pytest
import torch

from torchstone import conformance
from torchstone.conformance.evidence import tells_an_edge
from torchstone.conformance.name.changes import numbers_of
from torchstone.conformance.name.code import code_changes
from torchstone.conformance.vectors import hazards, leaves
from torchstone_oracle.contract import flat
from torchstone_oracle.contracts import OBJECTIVES

pytestmark = pytest.mark.usefixtures("unchecked")  # what is asked here is no shape: checking them takes half the time
BY_FLAG = ("nan_of_no_pairs", "mask_multiplied", "zero_times_inf", "log_of_sigmoid", "log_of_one_plus_exp")
ALL = [(name, k) for name, o in OBJECTIVES.items() for k in o.alternatives if k not in BY_FLAG]
EDGES = [(name, k) for name, k in ALL if tells_an_edge(k, conformance.load(name))]
SINGLE = [pair for pair in ALL if pair not in EDGES]


def floats(x):
    return [floats(part) for part in x] if isinstance(x, list) else 0.0 if x is None else float(getattr(x, "value", x))


def lists(x, kind):
    return (x.bool() if kind == "bool" else x).tolist()  # a mask of floats is a mask


def double(x):
    return torch.tensor(floats(x), dtype=torch.float64)


def plain(setting):
    """A reduction comes as a function of torchstone's, a number as a tensor; the oracle wants its name, and a float."""
    if isinstance(setting, torch.Tensor):
        return setting.item()
    return getattr(getattr(setting, "func", setting), "__name__", setting) if callable(setting) else setting


def wrong(objective, *names):
    """A function with torchstone's parameters that computes this objective with these alternatives."""
    known = {}  # the checker asks the same in both precisions, and in several layouts; the oracle is slow

    def run(inputs, settings):
        asked = repr((inputs, settings))
        if asked not in known:
            known[asked] = objective.run(inputs, settings, *names)
        return known[asked]

    def function(**given):
        inputs = {k: lists(x, a.kind) for k, a in objective.arguments.items() if (x := given.get(k)) is not None}
        outputs, slopes = run(inputs, {k: plain(given.get(k)) for k in objective.settings})
        tensors = {k: double(outputs[k]) for k in objective.returns if outputs.get(k) is not None}
        first = next(iter(tensors))
        for k, slope in slopes.items():
            leaf = given[k].nan_to_num()
            nothing = ((leaf - leaf.detach()) * double(slope)).sum()
            at = torch.zeros_like(tensors[first])
            at[chosen(outputs[first])] = 1
            tensors[first] = tensors[first] + at * nothing
        return tensors

    parameters = [*objective.arguments, *objective.settings]
    kind = inspect.Parameter.KEYWORD_ONLY
    function.__signature__ = inspect.Signature([inspect.Parameter(k, kind, default=None) for k in parameters])
    return function


def chosen(x):
    """The index of the first entry that is compared."""
    if not isinstance(x, list):
        return ()
    return next(((i, *chosen(part)) for i, part in enumerate(x) if flat(part)), slice(0, 0))


def named(report):
    return {name for diagnosis in report.diagnoses for name in diagnosis.names}


@pytest.mark.parametrize(("name", "alternative"), SINGLE)
def test_an_alternative_is_named(name, alternative):
    report = conformance.check(wrong(OBJECTIVES[name], alternative), name, arrays="torch", search=False)
    assert alternative in named(report) and not report.unexplained


@pytest.mark.parametrize(("name", "alternative"), EDGES)
def test_what_shows_on_edges_alone_is_told_as_an_edge(name, alternative):
    report = conformance.check(wrong(OBJECTIVES[name], alternative), name, arrays="torch", search=False)
    silent = any(d.silent for d in report.edges)  # these functions are safe from NaN, and go on with a wrong number
    assert report.verdict == ("wrong" if silent else "edges") and not report.unexplained
    assert {d.kind for d in report.diagnoses if not d.accepted} == {"edge"}
    if alternative == "empty_rows_counted":
        assert alternative in named(report)


PAIRS = [
    ("grpo_loss", "token_mean", "k1"),
    ("grpo_loss", "sequence_sum", "dual_clip"),
    ("grpo_loss", "reversed_kl", "no_minimum"),
    ("gae", "observations_discounted", "returns_are_rewards"),
    ("discounted_returns", "gaps_cost_discount", "own_reward_left_out"),
    ("reinforce_loss", "sign_flipped", "baseline_added"),
    ("dpo_loss", "reference_ignored", "sum_over_pairs"),
    ("cispo_loss", "row_loss_times_length", "clipped_ratio_only"),
]


@pytest.mark.parametrize(("name", "one", "other"), PAIRS)
def test_two_alternatives_at_once_are_both_named(name, one, other):
    report = conformance.check(wrong(OBJECTIVES[name], one, other), name)
    assert {one, other} <= named(report) and not report.unexplained


def test_the_pairs_replace_different_steps():
    for name, one, other in PAIRS:
        a, b = (OBJECTIVES[name].alternatives[k] for k in (one, other))
        assert not {*a.steps, *a.settings} & {*b.steps, *b.settings}, (name, one, other)
    assert all(len(set(pair)) == 3 for pair in itertools.chain(PAIRS))


# --------------------------------------------------------------------------------------- names that are made by machine


def off_by_one(log_probs, old_log_probs, advantages, mask, epsilon=0.2, epsilon_high=None):
    """The mask one place late."""
    on = torch.roll(mask, 1, dims=1)
    return surrogate(log_probs, old_log_probs, advantages[:, None], on, epsilon, epsilon_high)


def last_lost(log_probs, old_log_probs, advantages, mask, epsilon=0.2, epsilon_high=None):
    """The end token of each completion is not trained."""
    on = mask & (mask.flip(1).cumsum(1).flip(1) > 1)
    return surrogate(log_probs, old_log_probs, advantages[:, None], on, epsilon, epsilon_high)


def repeated(log_probs, old_log_probs, advantages, mask, epsilon=0.2, epsilon_high=None):
    """Advantages of other rows."""
    spread = advantages.repeat(mask.shape[1]).view(mask.shape)
    return surrogate(log_probs, old_log_probs, spread, mask, epsilon, epsilon_high)


def optimistic_where_bad(log_probs, old_log_probs, advantages, mask, epsilon=0.2, epsilon_high=None):
    """max in place of min for negative advantages."""
    a = advantages[:, None]
    return surrogate(log_probs, old_log_probs, a, mask, epsilon, epsilon_high, lambda x, y: torch.where(a > 0, x, y))


def surrogate(log_probs, old_log_probs, a, mask, epsilon, epsilon_high, choose=None):
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0).exp()
    both = ratio * a, ratio.clamp(1 - epsilon, 1 + (epsilon_high or epsilon)) * a
    kept = torch.minimum(*both) if choose is None else choose(torch.minimum(*both), torch.maximum(*both))
    rows = torch.where(mask, kept, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    return -rows.sum() / mask.any(1).sum().clamp(min=1)


def lambda_twice(rewards, values, mask, gamma=0.99, lam=0.95):
    advantages, after, run = torch.zeros_like(values), torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        new = rewards[:, t] + gamma * after - values[:, t] + gamma * lam * lam * run
        run, after = torch.where(mask[:, t], new, run), torch.where(mask[:, t], values[:, t], after)
        advantages[:, t] = torch.where(mask[:, t], new, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def value_added(rewards, values, mask, gamma=0.99, lam=0.95):
    """delta = r + gamma V' + V"""
    advantages, after, run = torch.zeros_like(values), torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        new = rewards[:, t] + gamma * after + values[:, t] + gamma * lam * run
        run, after = torch.where(mask[:, t], new, run), torch.where(mask[:, t], values[:, t], after)
        advantages[:, t] = torch.where(mask[:, t], new, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def margin_of_the_batch(chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta=0.1):
    margins = chosen_log_probs - rejected_log_probs - ref_chosen_log_probs + ref_rejected_log_probs
    return -torch.nn.functional.logsigmoid(beta * margins.mean())


def every_pair(chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta=0.1):
    margins = (chosen_log_probs - ref_chosen_log_probs)[:, None] - (rejected_log_probs - ref_rejected_log_probs)
    return -torch.nn.functional.logsigmoid(beta * margins).mean()


def median(rewards, eps=1e-4):
    tied = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    centred = rewards - rewards.median(1, keepdim=True).values
    return torch.where(tied, 0.0, centred / (rewards.std(1, keepdim=True) + eps))


def held_at_a_half(log_probs, ref_log_probs, mask):
    u = torch.where(mask, ref_log_probs - log_probs, 0.0)
    return (u.exp() - 1 - u).clamp(max=0.5)


MADE = [
    (off_by_one, "grpo_loss", "mask_one_earlier"),
    (last_lost, "grpo_loss", "mask_last_lost"),
    (repeated, "grpo_loss", "advantages_repeated"),
    (optimistic_where_bad, "grpo_loss", "maximum_where_negative"),
    (lambda_twice, "gae", "lam_squared"),
    (value_added, "gae", "delta_plus_for_minus"),
    (margin_of_the_batch, "dpo_loss", "mean_first"),
    (every_pair, "dpo_loss", "chosen_log_probs_and_ref_chosen_log_probs_broadcast"),
    (median, "group_advantages", "median"),
    (held_at_a_half, "kl_k3", "kl_clamped_above_0.5"),
]


def groups_interleaved(rewards, num_generations, eps=1e-4):
    grouped = rewards.view(num_generations, -1)
    return ((grouped - grouped.mean(0)) / (grouped.std(0) + eps)).reshape(-1)


def log_of_base_2(logp, ref_logp, mask):
    ratio = torch.where(mask, ref_logp - logp, 0.0).exp()
    return ratio - 1 - torch.log2(ratio)


def softmax_over_time(logits, ref_logits):
    p, q = logits.log_softmax(1), ref_logits.log_softmax(1)
    return (p.exp() * (p - q)).sum(-1)


def mean_over_columns(logps, old_logps, ref_logps, advantages, mask, eps=0.2, beta=0.04):
    ratio = (logps - old_logps).exp()
    loss = -torch.min(ratio * advantages[:, None], ratio.clamp(1 - eps, 1 + eps) * advantages[:, None])
    gap = ref_logps - logps
    return (((loss + beta * (gap.exp() - gap - 1)) * mask).sum(0) / mask.sum(0).clamp(min=1)).mean()


def ratio_in_bits(logp, ref_logp):
    d = (ref_logp - logp) / np.log(2)
    return d.exp() - 1 - d


def reward_for_value(rewards, values, gamma=0.99, lam=0.95):
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    delta, found, last = rewards + gamma * after - values, [], 0
    for t in reversed(range(rewards.shape[1])):
        last = delta[:, t] + gamma * lam * last
        found.insert(0, last)
    advantages = torch.stack(found, 1)
    return advantages, advantages + rewards


def log_of_the_mean(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margins = chosen_logps - ref_chosen_logps - (rejected_logps - ref_rejected_logps)
    return -torch.log(torch.sigmoid(beta * margins).mean())


MADE += [
    (log_of_the_mean, "dpo_loss", "log_of_the_mean"),
    (ratio_in_bits, "kl_k3", "log_ratios_of_base_2"),
    (reward_for_value, "gae", "returns_add_rewards"),
    (groups_interleaved, "group_advantages", "groups_interleaved"),
    (log_of_base_2, "kl_k3", "k3_u_log_base_2_log2"),
    (softmax_over_time, "kl_exact", "softmax_over_time"),
    (mean_over_columns, "grpo_loss", "mean_over_columns"),
]


def test_names_made_of_code_are_short_and_speak_of_the_equation():
    """What belongs to the oracle alone (steps, dual) is in no name and no sentence."""
    for objective in ("gae", "grpo_loss", "kto_loss"):
        case = next(c for c in conformance.load(objective).cases if c.expected is not None)
        for made in code_changes(OBJECTIVES[objective], case):
            assert len(made.name) <= 64 and not re.search(r"steps\[|settings\[|dual\(|__import__", made.about)
            assert not made.name.startswith("label_up")


@pytest.mark.parametrize(("function", "objective", "name"), MADE, ids=[f.__name__ for f, _, _ in MADE])
def test_a_change_that_is_in_no_vectors_is_named(function, objective, name):
    report = conformance.check(function, objective)
    first = next(d for d in report.diagnoses if name in d.names)
    assert first.matched > 2 and first.about[0].endswith(".") and first.effect[0].endswith(".")


@pytest.mark.parametrize("name", ["gae", "dpo_loss", "grpo_loss", "jsd_exact"])
def test_a_search_computes_what_the_oracle_does(name):
    for case in conformance.load(name).cases:
        fast = numbers_of(OBJECTIVES[name], case, (), fast=True)
        exact = numbers_of(OBJECTIVES[name], case, ())
        if exact is not None and not hazards(case):
            margin = 1e-12 * exact.magnitude
            for tree in ("outputs", "gradients"):
                pairs = zip(leaves(getattr(fast, tree)), leaves(getattr(exact, tree)), strict=True)
                assert all(abs(a - b) <= margin for (_, a), (_, b) in pairs), case.id
