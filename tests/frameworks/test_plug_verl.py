"""Rows of the table inside verl 0.9.1: its own `ppo_loss` and `compute_advantage`, with losses of verl's registries.

Two ranks with two micro-batches each, of 1, 4, 5 and 2 completions. verl adds up the micro-batches of a rank and
averages ranks, and hands the counts of all four.
"""

import logging
import re
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version

import numpy as np
import pytest
import torch
from batch import GROUP, TOKENS, leaf, policy_batch
from cases import BATCHES
from cases_verl import (
    SAMPLER,
    SETTINGS,
    WHITENED,
    advantages,
    core_algos,
    inputs,
    losses,
    model_output,
    proto,
    tensordict_utils,
)
from torch import Tensor
from verl.trainer.config import AlgoConfig, KLControlConfig, RolloutCorrectionConfig

from torchstone.frameworks.verl import functions, names, plug, settings
from torchstone.frameworks.verl.registered import registered
from torchstone.frameworks.verl.unit import UNIT, VERSION
from torchstone.recipes import RECIPES, PolicyRecipe
from torchstone.recipes.columns import ADVANTAGES

ROWS = {name: row for name, row in RECIPES.items() if isinstance(row, PolicyRecipe)}
PLUGGED = [name for name, row in ROWS.items() if not settings.loss_refusal(row)]
ESTIMATORS = [name for name, row in ROWS.items() if not settings.advantages_refusal(row)]
OWN = {
    **{name: knobs for name, knobs in SETTINGS.items() if "adv_estimator" not in knobs},
    **{
        name: {}
        for name in (
            "rloo",
            "rloo-kl",
            "remax",
            "opo",
            "reinforce++",
            "reinforce++-baseline",
            "ppo",
            "ppo-kl",
            "grpo-passk",
        )
    },
    **{"gspo": {"loss_mode": "gspo"}, "gpg": {"loss_mode": "gpg"}, "dapo": {"clip_ratio_high": 0.28}},
    "dro": {"loss_mode": {"loss_mode": "dro", "dro_beta": 0.1}},
    **{name: {"correction": knobs} for name, knobs in SAMPLER.items()},
    **{"grpo-kl": {"use_kl_loss": True}, "grpo-kl+": {"use_kl_loss": True, "kl_loss_type": "k3+"}},
}
OF_THE_ALGORITHM = {"adv_estimator", "norm_adv_by_std_in_grpo", "use_kl_in_reward"}
OWN_ESTIMATORS = {
    **{name: {"adv_estimator": "grpo"} | {k: v for k, v in knobs.items() if k in OF_THE_ALGORITHM}
       for name, knobs in (OWN | SETTINGS | WHITENED).items() if name not in ("ppo", "ppo-kl", "remax", "dapo")},
    "gpg": {"adv_estimator": "gpg"},
}  # fmt: skip
NEAR = dict.fromkeys([*WHITENED, "gpg"], 1e-7)  # verl's n / (n - 1) and its alpha are float32
SPLIT = [[slice(0, 1), slice(1, 5)], [slice(5, 10), slice(10, 12)]]
WHOLE = [[slice(0, 12)]]


def needed(row: PolicyRecipe) -> dict[str, object]:
    """The settings of the actor that a person writes for this row."""
    found: dict[str, object] = {"policy": {"loss_mode": f"torchstone:{row.name}"}, "loss_scale_factor": TOKENS}
    correction = {}
    for setting, (serve, _) in settings.actor_settings(row).items():
        part, _, name = setting.rpartition(".")
        (correction if part else found)[name] = serve[0]
    found["policy"] |= {"rollout_correction": RolloutCorrectionConfig(**correction)}
    return found


def gradient(batch, split, policy, weights=None, mask=None, **knobs) -> Tensor:
    """What verl's optimizer sees [B T]: ppo_loss of each micro-batch, added up, ranks averaged."""
    mask, log_probs = batch.mask if mask is None else mask, leaf(batch.log_probs)
    config = functions.config(policy, **knobs)
    old = batch.old_log_probs
    if config.policy_loss.rollout_correction.bypass_mode:
        old = batch.sampler_log_probs
    for rank in split:
        for rows in rank:
            data = inputs(
                mask[rows].long(),
                old_log_probs=old[rows],
                advantages=(batch.token_advantages * mask)[rows],
                rollout_is_weights=None if weights is None else weights[rows],
                ref_log_prob=batch.ref_log_probs[rows] if config.use_kl_loss else None,
            )
            counts = {"batch_num_tokens": int(mask.sum()), "global_batch_size": len(mask), "dp_size": len(split)}
            tensordict_utils.assign_non_tensor(data, **counts)
            value, _ = losses.ppo_loss(config, {"log_probs": model_output(log_probs[rows])}, data)
            (value / len(split)).backward()
    return log_probs.grad


def corrected(batch, correction) -> tuple[Tensor, Tensor]:
    """The sampler's weights and the mask as verl's trainer makes them."""
    data, _ = losses_helper().compute_rollout_correction_and_add_to_batch(proto(batch), correction)
    return data.batch["rollout_is_weights"], data.batch["response_mask"]


def losses_helper():
    return import_module("verl.trainer.ppo.rollout_corr_helper")


def of_the_whole(row, batch) -> Tensor:
    """The gradient [B T] by Torchstone alone, of the row with all its terms, on the batch in one piece."""
    log_probs = leaf(batch.log_probs)
    tensors = {name: getattr(batch, name) for name in row.takes("loss") if hasattr(batch, name)}
    length = {"max_length": TOKENS} if "max_length" in row.takes("loss") else {}
    row.loss(log_probs, batch.token_advantages, batch.mask, **tensors, **length).value.backward()
    return log_probs.grad


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", PLUGGED)
def test_two_ranks_with_two_micro_batches_give_the_gradient_of_the_whole_batch(name):
    row, batch = ROWS[name], replace(policy_batch(3), advantages=None)
    settings_, weights = needed(row), None
    if row.sampler.name == "weights":
        weights, _ = corrected(batch, settings_["policy"]["rollout_correction"])
    expected = of_the_whole(row, batch)
    assert expected.abs().max() > 1e-3
    for split in (SPLIT, WHOLE):
        assert largest(gradient(batch, split, weights=weights, **settings_), expected) <= 1e-9


@pytest.mark.parametrize("name", OWN)
def test_a_row_of_verl_s_dialect_is_verl_s_own_loss_mode(name):
    row, batch = ROWS[f"{name}@{VERSION}"], policy_batch(5)
    if name in ("gmpo", "sapo"):  # verl's GMPO has one advantage a completion
        batch = replace(batch, token_advantages=batch.advantages[:, None].expand_as(batch.mask))
    if name == "grpo-passk":  # no advantage of its is below 0, where verl's dual clip acts
        batch = replace(batch, token_advantages=batch.token_advantages.abs())
    knobs = {k: v for k, v in OWN[name].items() if k not in OF_THE_ALGORITHM}
    correction = knobs.pop("correction", None)
    mode, weights = knobs.pop("loss_mode", "vanilla"), None
    if correction:
        weights, _ = corrected(batch, RolloutCorrectionConfig(**correction))
    ours, own = (
        needed(row),
        {"policy": mode if isinstance(mode, dict) else {"loss_mode": mode}, "loss_scale_factor": TOKENS, **knobs},
    )
    # verl's GMPO takes the mean over the rows of a micro-batch, whatever the batch: compared where the two are one
    for split in (WHOLE,) if name == "gmpo" else (SPLIT, WHOLE):
        expected = gradient(batch, split, weights=weights, **own)
        assert largest(gradient(batch, split, weights=weights, **ours), expected) <= 1e-9


def test_verl_s_own_gmpo_depends_on_the_split_and_the_row_does_not():
    batch = policy_batch(5)
    batch = replace(batch, token_advantages=batch.advantages[:, None].expand_as(batch.mask))
    own, ours = {"policy": {"loss_mode": "geo_mean"}}, needed(ROWS[f"gmpo@{VERSION}"])
    assert largest(gradient(batch, SPLIT, **ours), gradient(batch, WHOLE, **ours)) <= 1e-9
    split, whole = gradient(batch, SPLIT, **own), gradient(batch, WHOLE, **own)
    for rank in SPLIT:
        for rows in rank:  # each completion of a micro-batch of n weighs 1 / (2 n), not 1 / 12
            pieces = rows.stop - rows.start
            assert largest(split[rows] * 2 * pieces, whole[rows] * 12) <= 1e-9
    assert largest(split, whole) > 1e-2


def estimate(name, batch, order, **algorithm) -> Tensor:
    """verl's own compute_advantage with an estimator of ours, on rows in this order; back in the batch's."""
    shuffled = {k: getattr(batch, k)[order] for k in ("log_probs", "old_log_probs", "ref_log_probs", "mask",
                                                      "sampler_log_probs")}  # fmt: skip
    ray_trainer = import_module("cases_verl").ray_trainer
    mask = shuffled["mask"]
    scores = torch.zeros_like(batch.log_probs)
    ends = TOKENS - 1 - mask.long().flip(1).argmax(1)
    scores[torch.arange(len(scores)), ends] = batch.rewards.flatten()[order]
    data = proto(replace(batch, **shuffled), token_level_scores=scores, token_level_rewards=scores)
    data.non_tensor_batch["uid"] = data.non_tensor_batch["uid"][order.numpy()]
    config = AlgoConfig(adv_estimator=f"torchstone:{name}", **algorithm)
    if config.use_kl_in_reward:
        controller = core_algos.get_kl_controller(config.kl_ctrl)
        data, _ = ray_trainer.apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=config.kl_penalty)
    data = ray_trainer.compute_advantage(data, adv_estimator=config.adv_estimator, num_repeat=GROUP, config=config)
    found = torch.empty_like(scores)
    found[order] = data.batch["advantages"]
    return found


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_gives_the_row_s_advantages_in_any_order_of_the_completions(name):
    row, batch = ROWS[name], policy_batch(7)
    algorithm = {}
    if row.reward_kl.name != "none":
        beta = row.reward_kl.numbers["beta"]
        kind = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}[row.reward_kl.numbers["estimator"]]
        algorithm = {"use_kl_in_reward": True, "kl_penalty": kind, "kl_ctrl": KLControlConfig(kl_coef=beta)}
    tensors = {k: getattr(batch, k) for k in row.takes("advantages") if k in ("old_log_probs", "ref_log_probs")}
    expected = row.advantages(batch.rewards, batch.mask, **tensors).advantages
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert largest(estimate(name, batch, order, **algorithm), expected) <= 1e-9
    assert expected.abs().max() > 0.05 or name == "pass-at-k"  # 4 in a group of 4: there is one set, and no gain


@pytest.mark.parametrize("name", OWN_ESTIMATORS)
def test_an_estimator_of_verl_s_dialect_is_verl_s_own(name):
    batch, own = policy_batch(7), OWN_ESTIMATORS[name]
    if name == "gpg":  # verl counts rewards that are not 0, which for rewards of 0 and 1 is the mean
        batch = replace(batch, rewards=(batch.rewards > 0.5).to(batch.rewards.dtype))
    algorithm = {k: v for k, v in own.items() if k == "use_kl_in_reward"}
    found = estimate(f"{name}@{VERSION}", batch, torch.arange(12), **algorithm)
    expected = advantages(batch, **own)[0] * batch.mask
    assert expected.abs().max() > 0.05
    assert largest(found, expected) <= NEAR.get(name, 1e-9)


def test_every_row_of_verl_s_dialect_is_held_against_verl_s_own():
    whole = {f"{name}@{VERSION}" for name in ("clip-cov", "kl-cov")}  # verl's own judge a micro-batch, a row the step
    assert all("together" in settings.loss_refusal(ROWS[name]) for name in whole)
    # verl's own filters shorten the mask before a loss is called, and its GDPO takes several rewards: test_dialects.py
    elsewhere = {f"{name}@{VERSION}" for name in ("seq-mis", "geo-rs", "geo-rs-token-tis", "gdpo")}
    assert elsewhere <= import_module("cases_verl").CASES.keys()
    dialect = {name.removesuffix(f"@{VERSION}") for name in ROWS.keys() - whole - elsewhere if name.endswith(VERSION)}
    assert OWN.keys() == dialect == OWN_ESTIMATORS.keys() | {"ppo", "ppo-kl", "remax", "dapo"}
    for name in dialect - OWN_ESTIMATORS.keys():  # these advantages are verl's own there, or its reward manager's
        assert settings.advantages_refusal(ROWS[f"{name}@{VERSION}"])


def test_an_option_of_the_column_is_an_estimator_or_says_which_row_has_its_numbers():
    batch = policy_batch(7)
    for name, option in ADVANTAGES.items():
        if name in ROWS:  # the name is the row's
            continue
        row = {"critic": "cannot run critic: values do not reach", "greedy": "for adv_estimator=remax alone",
               "each-by-std": "is handed one reward a completion; adv_estimator=gdpo is verl's own",
               "prompt-value": "values of prompts do not reach an estimator",
               "optimal-token": "for adv_estimator=optimal_token_baseline alone"}.get(name)  # fmt: skip
        if option.numbers and row is None:
            row = f"{name} takes .*; name a row that has it: .*"
        if row is None:
            expected = names.option_row(name).advantages(batch.rewards, batch.mask).advantages
            assert largest(estimate(name, batch, torch.arange(12)), expected) <= 1e-12
        else:
            with pytest.raises(ValueError, match=row):
                estimate(name, batch, torch.arange(12))


def test_every_name_is_registered_and_what_verl_cannot_run_says_why():
    assert {f"torchstone:{name}" for name in ROWS} <= core_algos.POLICY_LOSS_REGISTRY.keys()
    assert {f"torchstone:{name}" for name in [*ROWS, *ADVANTAGES]} <= core_algos.ADV_ESTIMATOR_REGISTRY.keys()
    batch = policy_batch()
    for name in sorted(ROWS.keys() - set(PLUGGED)):
        with pytest.raises(ValueError, match="verl cannot run"):
            gradient(batch, SPLIT, {"loss_mode": f"torchstone:{name}"})
    for name in sorted(ROWS.keys() - set(ESTIMATORS)):
        with pytest.raises(ValueError, match="verl cannot run"):
            estimate(name, batch, torch.arange(12))
    assert UNIT.version == f"verl-{version('verl')}"


def test_another_version_of_verl_and_a_wrong_name_are_told_in_a_warning(monkeypatch):
    monkeypatch.setenv("TORCHSTONE_RECIPES", "bad=gsop")
    monkeypatch.setattr(plug, "version", lambda _: "0.10.0")
    monkeypatch.setattr(plug, "register_adv_est", lambda _: lambda f: f)  # verl refuses a second one of a name
    with pytest.warns(UserWarning, match=r"verl: recipes were tested with verl-0.9.1, got verl-0.10.0") as told:
        plug.register()
    assert "TORCHSTONE_RECIPES: bad: recipe: expected a name in the table" in str(told[1].message)


TWO_KLS = {"use_kl_loss": True, "kl_loss_coef": 0.001}


@pytest.mark.parametrize(
    "name, knobs, message",
    [
        ("grpo", {}, "use_kl_loss: expected True, got False; grpo has k3"),
        ("grpo", TWO_KLS, "kl_loss_coef: expected 0.04, got 0.001"),
        ("rloo", TWO_KLS, "use_kl_loss: expected False, got True; rloo has its KL in the reward"),
        ("dapo", {}, "pieces of groups.*reduction=token-mean"),
        ("dppo", {}, "bypass_mode: expected True, got False.*algorithm.rollout_correction"),
        ("tis", {}, "rollout_is_weights: the recipe tis has weights.*got None; set algorithm.rollout_correction"),
        ("deepseek-v3.2", {}, "sampler's log-probs do not reach"),
        ("dr_grpo", {}, "actor.loss_scale_factor: dr_grpo divides by it, got None"),
        ("gspo", {"loss_agg_mode": "seq-mean-token-sum"}, "loss_agg_mode: expected 'seq-mean-token-mean'"),
        ("gsop", {}, "Unsupported loss mode"),
    ],
)
def test_what_a_configuration_lacks_or_says_twice_is_refused(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        gradient(policy_batch(), SPLIT, {"loss_mode": f"torchstone:{name}"}, **knobs)


def test_a_row_that_skips_empty_completions_refuses_them_and_one_that_counts_them_does_not():
    batch = BATCHES["empty"](0)
    with pytest.raises(ValueError, match="rows without a token"):
        gradient(batch, SPLIT, {"loss_mode": "torchstone:gspo"})
    name = "gspo@trl-1.16.0"
    assert largest(gradient(batch, SPLIT, **needed(ROWS[name])), of_the_whole(ROWS[name], batch)) <= 1e-9


def test_a_bound_of_verl_s_own_loss_is_not_read_and_says_so():
    with pytest.warns(UserWarning, match=r"actor.clip_ratio_high=0.3 is not read: the recipe gspo is the loss"):
        gradient(policy_batch(), SPLIT, {"loss_mode": "torchstone:gspo"}, clip_ratio_high=0.3)


@pytest.mark.parametrize("name", ["grpo", "maxrl", "reinforce++-baseline", "opo@verl-0.9.1", "gpg@verl-0.9.1"])
def test_groups_of_several_sizes_are_taken_as_they_are_and_verl_s_padding_is_left_out(name):
    batch, index = policy_batch(7), np.array(list("aaaabbbccccd"))
    batch = replace(batch, rewards=torch.randint(3, batch.rewards.shape).to(batch.rewards))
    mask = batch.mask.clone()
    mask[11] = False  # "d": a row with which verl fills up its batch
    rewards = torch.where(torch.arange(TOKENS) == TOKENS - 1, batch.rewards.flatten()[:, None], 0.0)
    mask[:11, -1] = True
    found, _ = core_algos.get_adv_estimator_fn(f"torchstone:{name}")(
        token_level_rewards=rewards, response_mask=mask.long(), index=index, config=AlgoConfig()
    )
    table, tokens, scored = torch.zeros(3, 4).double(), torch.zeros(12, TOKENS).bool(), torch.ones(3, 4).bool()
    places = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]  # the second group has no fourth member
    table.view(-1)[places], tokens[places], scored[1, 3] = batch.rewards.flatten()[:11], mask[:11], False
    expected = ROWS[name].advantages(table, tokens, scored=scored).advantages
    assert largest(found[:11], expected[places]) <= 1e-12 and not found[11].any()
    assert expected.abs().max() > 0.05


def test_groups_without_a_signal_and_a_kl_said_twice_are_refused():
    batch = policy_batch()
    tied = replace(batch, rewards=torch.ones_like(batch.rewards))
    with pytest.raises(ValueError, match=r"drops groups of equal rewards; set algorithm.filter_groups"):
        estimate("intellect-2", tied, torch.arange(12))
    with pytest.raises(ValueError, match=r"use_kl_in_reward: expected False, got True; grpo has its KL in the loss"):
        estimate("grpo", batch, torch.arange(12), use_kl_in_reward=True)


NONSENSE = [
    ("bad=gsop", "bad", "did you mean 'gspo'"),
    ("gspo:reduction=token-mean", "gspo:reduction=token-mean", "expected NAME=ROW or NAME=ROW:CHANGES"),
    ("mine", "mine", "expected NAME=ROW"),
    ("=gspo", "=gspo", "expected NAME=ROW"),
    ("mine=", "mine=", "expected NAME=ROW"),
    ("grpo=rloo", "grpo", "expected a name that Torchstone does not have itself"),
    ("a=rloo a=grpo", "a", "got two named 'a'"),
    ("a=dpo", "a", "expected a policy row, got dpo"),
    ("a=gspo:reduction=token-maen", "a", "did you mean 'token-mean'"),
]


@pytest.mark.parametrize("text, name, says", NONSENSE)
def test_what_torchstone_recipes_names_wrongly_is_an_error_where_it_is_used(text, name, says, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_RECIPES", text)
    assert says in names.faults()[name]
    with pytest.raises(ValueError, match=re.escape(says)):
        names.recipes()[name]()


def test_recipes_with_changes_are_named_in_the_environment(monkeypatch):
    monkeypatch.setenv(
        "TORCHSTONE_RECIPES", " mine=gspo:reduction=token-mean   other=grpo:loss_kl=none+advantage=length-weighted "
    )
    assert names.recipes()["mine"]().reduction.name == "token-mean"
    assert names.recipes()["other"]().advantage.name == "length-weighted"


def test_looking_at_what_is_registered_leaves_verls_logger_as_it_was():
    logger = logging.getLogger("verl")
    before = logger.level, logger.propagate, list(logger.handlers)
    assert registered()["registered"].endswith("estimators")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
