"""Published rows: each number says where it was seen, and the numbers do what their papers say."""

import math
import re
from pathlib import Path

import pytest
import torch

from torchstone.recipes import RECIPES, find

ROOT = Path(__file__).parent.parent
ROWS = [row for row in RECIPES.values() if "@" not in row.name]
SEEN = ("paper, ", "authors' code, ", "framework, ", "account, ", "not stated; ", "not found; ")
published = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def tokens(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def gradient(name: str, new: torch.Tensor, old: torch.Tensor, advantage: float) -> list[float]:
    """Of a row's loss for one completion, by each token's log-prob."""
    row, log_probs = RECIPES[name], new.log().requires_grad_()
    given = {k: old.log() for k in ("old_log_probs", "sampler_log_probs", "ref_log_probs") if k in row.takes("loss")}
    loss = row.loss(log_probs, tokens(advantage)[0], torch.ones_like(new, dtype=torch.bool), **given)
    return torch.autograd.grad(loss.value, log_probs)[0][0].tolist()


# ------------------------------------------------------------------------------------------------- where it was seen


@published
def test_every_number_says_of_which_kind_the_place_is_where_it_was_seen(row):
    for number, place in row.stated.items():
        assert place.startswith(SEEN), f"{number}: {place}"


@pytest.mark.parametrize("row", RECIPES.values(), ids=lambda row: row.name)
def test_a_row_says_what_its_source_has_and_it_leaves_out(row):
    assert row.left_out and not row.left_out.endswith(".")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("opo", ("over the whole batch", "mean over tokens")),  # microsoft/LMOps 4f2a9de: "optimal_batch"
        ("maxrl", ("1e-6", "mean over tokens")),  # tajwarfahim/maxrl c0698eb: epsilon; loss_agg_mode of its scripts
        ("dppo", ("eq. 15, 16", "no cap and a threshold of 0.15")),  # arXiv:2602.04879v3, appendix C.1
        ("dppo-kl", ("eq. 15, 16", "no cap")),  # there the threshold of the KL is 0.05, as here
    ],
)
def test_a_row_names_what_the_authors_code_or_another_run_has_otherwise(name, says):
    assert all(text in RECIPES[name].left_out for text in says)
    assert ("0.15" in RECIPES[name].left_out) == (name == "dppo")


@pytest.mark.parametrize(
    ("name", "says", "says_not"),
    [
        ("ppo-kl@verl-0.9.1", "log-ratios are cut", ("GSPO", "GMPO", "k3", "a group of one", "1e-6")),  # no groups, k1
        ("reinforce++@verl-0.9.1", "log-ratios are cut", ("GSPO", "GMPO", "k3", "a group of one", "1e-6")),
        ("gmpo@verl-0.9.1", "a group of one", ("are cut",)),  # core_algos.py:1973 is a comment
        (
            "cispo@verl-0.9.1",
            "a group of one",
            ("gradient 0",),
        ),  # 2079-2084: the weight is within 0.8 and 1.2, detached
        ("gspo@verl-0.9.1", "is cut at 10", ("-20",)),  # 1590
        ("grpo-kl+@verl-0.9.1", "k3 at 10", ("k3 at 10, with gradient 0",)),  # 2211-2213: k2's gradient is not cut
        ("rloo@verl-0.9.1", "a group of one", ("rounding",)),
        ("dapo@verl-0.9.1", "a group of one", ("rounding",)),  # groups of equal rewards are dropped
        ("tis@openrlhf-0.11.2", "up to about 1 in place of 0", ("GSPO", "whitening")),  # group_norm is not whitened
        ("reinforce++@openrlhf-0.11.2", "whitening", ("GSPO", "after the baseline", "rounding")),
        ("gspo@openrlhf-0.11.2", "rewards are clipped", ("log-ratios",)),  # loss.py:189-196
        ("lite-ppo@trl-1.16.0", "above 20", ("rounding",)),
        ("tis@trl-1.16.0", "divided by 1e-4", ()),
        ("cispo@trl-1.16.0", "divided by 1e-4", ("tangent",)),  # the weight is capped at 0.2, detached
        ("gspo@liger-0.8.5", "above 20", ()),  # exp has no bound there either: grpo_loss.py:155
        ("dapo@liger-0.8.5", "divided by 1e-4", ()),
        ("grpo@skyrl-0.3.0", "-20 and 20, with gradient 0", ("critic", "whitening")),  # torch_utils.py:187-192
        ("gspo@skyrl-0.3.0", "is cut at 10", ("on by default",)),  # ppo_utils.py:708; its KL is in the row
        ("cispo@skyrl-0.3.0", "a group of one", ("log-ratios",)),  # 749-751: the weight is within 1 and 6, detached
        ("clip-cov@skyrl-0.3.0", "exp of any log-ratio", ("are cut",)),  # 903
        ("rloo@skyrl-0.3.0", "on by default", ("a group of one", "rounding")),  # 1247: its advantage is 0
        ("ppo@skyrl-0.3.0", "the critic's loss", ("a group of one", "rounding")),
        ("maxrl@skyrl-0.3.0", "1e-6 is added to the mean", ("rounding",)),
    ],
)
def test_a_dialect_names_what_its_own_lines_do_and_no_other_rows(name, says, says_not):
    text = RECIPES[name].left_out
    assert says in text and not any(other in text for other in says_not)


def test_reinforce_names_the_baseline_that_its_equation_has():
    """Williams (1992), eq. 11: (r - b) times the sum of the eligibilities."""
    assert "baseline b" in RECIPES["reinforce"].left_out


@pytest.mark.parametrize("name", ["reinforce++", "reinforce++-baseline"])
def test_reinforce_plus_plus_says_that_its_authors_take_another_mean(name):
    """OpenRLHF 1bfcc33, models/loss.py: ``token_level_loss`` is True by default; v9, eq. 1: 1 / |o|."""
    row = RECIPES[name]
    assert row.reduction.name == "sequence-mean" and "code takes the mean over tokens" in row.left_out


def test_mopd_says_that_the_outcome_is_added_by_default():
    """arXiv:2601.02780v1, before eq. 9: "By default, we combine the advantages of MOPD with other types"."""
    assert "by default (eq. 9)" in RECIPES["mopd"].left_out and "by accounts" not in RECIPES["mopd"].source


@published
def test_a_number_is_the_papers_only_where_the_paper_was_read(row):
    text = (ROOT / "docs/sources.md").read_text()
    known = {line for line in text.splitlines() if line.startswith("| ")}
    for identifier in re.findall(r"arXiv:(\d{4}\.\d{5})|doi:(\S+?),", row.source):
        entries = [line for line in known if next(filter(None, identifier)) in line]
        assert entries, f"{identifier} is not in docs/sources.md"
        read = any("paper read" in line for line in entries)
        said = {place.split(",")[0].split(";")[0] for place in row.stated.values()}
        assert read or not said & {"paper", "not stated"}, f"{row.name}: {said}, but not read"


# ------------------------------------------------------------------------------------------------- what a number does


def test_rloo_pays_003_for_a_nat():
    """arXiv:2402.14740v2, appendix C, by TRL's index of papers: beta 0.03 on TL;DR."""
    mask = torch.ones(2, 2, dtype=torch.bool)
    old = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    far = old - torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)  # one nat below, in all
    rewards = torch.zeros(1, 2, dtype=torch.float64)
    earned = RECIPES["rloo"].advantages(rewards, mask, old_log_probs=old, ref_log_probs=far).advantages
    torch.testing.assert_close(earned[:, 0], torch.tensor([-0.03, 0.03], dtype=torch.float64))


def test_dppo_stops_a_token_that_has_moved_by_02_and_dppo_kl_at_005():
    """arXiv:2602.04879v3, appendix E: delta 0.2 for total variation, 0.05 for the KL."""
    old = tokens(0.5, 0.5, 0.5)
    assert [g != 0 for g in gradient("dppo", tokens(0.6, 0.69, 0.71), old, 1.0)] == [True, True, False]
    # KL(0.5 || p) is 0.0204 at 0.6, 0.0472 at 0.65, 0.0872 at 0.7
    assert [g != 0 for g in gradient("dppo-kl", tokens(0.6, 0.65, 0.7), old, 1.0)] == [True, True, False]


@pytest.mark.parametrize("name", ["dppo", "dppo-kl"])
def test_dppo_weighs_a_token_by_its_ratio_up_to_5(name):
    """arXiv:2602.04879v3, eq. 23 with C = 5 (appendix E): the gradient is -min(r, C) A."""
    found = gradient(name, tokens(0.004, 0.006), tokens(0.001, 0.001), 1.0)
    torch.testing.assert_close(tokens(*found), tokens(-4.0, -5.0))


def test_cispo_has_dapos_length_penalty():
    """arXiv:2506.13585, section 3.1: "the dynamic sampling and length penalty techniques from Yu et al. (2025)"."""
    mask = torch.arange(5000).expand(2, -1) < torch.tensor([[10], [5000]])
    tied = torch.ones(1, 2, dtype=torch.float64)
    for name in ("dapo", "cispo"):
        earned = RECIPES[name].advantages(tied, mask, max_length=5000).advantages
        torch.testing.assert_close(earned[:, 0], torch.tensor([0.5, -0.5], dtype=torch.float64).mul(2**0.5))
    assert RECIPES["cispo"].keep(tied).tolist() == [False]


def test_intellect_2_samples_again_where_a_group_has_no_signal():
    """prime-rl f906d22: ``ignore_zero_advantages``; (r - mean) / (std(ddof=1) + 1e-6)."""
    rewards = torch.tensor([[0.0, 0.0], [0.0, 1e-6]], dtype=torch.float64)
    row = RECIPES["intellect-2"]
    assert row.keep(rewards).tolist() == [False, True]
    earned = row.advantages(rewards, torch.ones(4, 1, dtype=torch.bool)).advantages.flatten()
    half = 0.5e-6 / (1e-6 / 2**0.5 + 1e-6)
    torch.testing.assert_close(earned, torch.tensor([0.0, 0.0, -half, half], dtype=torch.float64))


@pytest.mark.parametrize("name", ["reinforce++", "reinforce++-baseline"])
def test_reinforce_plus_plus_divides_by_the_population_deviation(name):
    """OpenRLHF 1bfcc33, experience_maker.py: the squares' mean over the tokens."""
    rewards, mask = torch.tensor([[0.0, 3.0, 6.0, 7.0]], dtype=torch.float64), torch.ones(4, 2, dtype=torch.bool)
    logs = dict.fromkeys(("old_log_probs", "ref_log_probs"), torch.zeros(4, 2, dtype=torch.float64))
    row = RECIPES[name]
    given = row.used("advantages", logs)
    earned = row.advantages(rewards, mask, **given).advantages
    torch.testing.assert_close(earned.square().mean().item(), 1.0, rtol=1e-7, atol=0)


def test_exo_smooths_the_label_by_exp_minus_10():
    """haozheji/exact-optimization a8ab360, src/align_stage/loss.py: ``log_epsilon = -10``."""
    assert math.log(RECIPES["exo"].objective.numbers["label_smoothing"]) == pytest.approx(-10, abs=1e-4)


def test_sapo_leaves_ever_less_of_the_ratios_gradient_though_a_tokens_own_grows_at_first():
    """arXiv:2511.20347v2, eq. 6, by accounts: f'(rho) = sech^2(tau (rho - 1) / 2); by a log-prob it is rho f'(rho)."""
    old = tokens(0.1)
    ratios = [1.0, 1.5, 2.06, 3.4, 3.5, 5.0]
    own = [-gradient("sapo", tokens(0.1 * r), old, 1.0)[0] for r in ratios]
    left = [g / r for g, r in zip(own, ratios, strict=True)]
    assert left == sorted(left, reverse=True) and left[0] == pytest.approx(1)
    assert own[:3] == sorted(own[:3]) and own[2] == pytest.approx(1.5747, abs=1e-4) and own[3] > 1 > own[4]
    assert "Ever less of the ratio's gradient" in RECIPES["sapo"].effect("surrogate")


def test_no_baseline_has_no_variance_where_rewards_of_both_signs_make_all_gradients_equal():
    """Two actions of probability 1/2 with the rewards 1 and -1: every sample has the same gradient."""
    found = {}
    for name in ("reinforce", "reinforce:advantage=leave-one-out"):
        row, samples = find(name), []
        for pair in ([0, 0], [0, 1], [1, 0], [1, 1]):
            logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            log_probs, mask = logits.log_softmax(0)[pair][:, None], torch.ones(2, 1, dtype=torch.bool)
            earned = row.advantages(torch.tensor([[1.0 - 2 * a for a in pair]], dtype=torch.float64), mask)
            samples.append(torch.autograd.grad(row.loss(log_probs, earned.advantages, mask).value, logits)[0])
        found[name] = torch.stack(samples)
    none, others = found.values()
    torch.testing.assert_close(none.mean(0), others.mean(0))
    assert none.var(0).sum() == 0 < others.var(0).sum() and "largest" not in RECIPES["reinforce"].effect("advantage")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ppo", "entropy bonus (eq. 9)"),
        ("luspo", "times 0.3 (eq. 11)"),
        ("remax", "the difference of the two rewards"),
        ("otb", "mean over tokens"),
        ("deepseek-v3.2", "for each domain"),
        ("iw-opd", "an entropy bonus, a KL in the reward"),
        ("opd-k3", "use_task_rewards"),
    ],
)
def test_what_the_source_adds_to_the_objective_is_named(name, says):
    assert says in RECIPES[name].left_out


def test_gmpo_s_range_is_where_the_paper_sets_it():
    assert "section 3;" in RECIPES["gmpo"].stated["surrogate.epsilon"]  # (ii), "Clipping wider"; 4.1 has no threshold
