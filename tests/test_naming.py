"""The checker names what it is shown: functions made of the oracle with one or two of its alternatives.

Their values come from the oracle, and so do their gradients: to the value is added something that is 0 and has that
slope. NaN slopes cannot be made in this way; alternatives that show themselves by them only are left out.
"""

import inspect
import itertools

import pytest
import torch

from torchstone import conformance
from torchstone.conformance.evidence import tells_an_edge
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
    """A reduction comes as a function of torchstone's; the oracle wants its name."""
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
    assert report.verdict == "edges" and {d.kind for d in report.edges} == {"edge"}
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
