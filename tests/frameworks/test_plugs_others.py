"""Rows of the table inside prime-rl, slime, SkyRL and tinker: pieces of a batch give the whole batch's gradient.

Two ranks with two micro-batches each, of 1, 4, 5 and 2 completions. SkyRL's registries and reductions and tinker's
``_compute_custom_loss`` are their own code; the rest stands in for it (stand_ins.py).
"""

import re
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import torch
from batch import GROUP, TOKENS, leaf, policy_batch
from stand_ins import (
    EVEN,
    SLIME,
    SPLIT,
    WHOLE,
    LossInputs,
    forget_stand_ins,
    prime_rl,
    prime_rl_gradient,
    skyrl,
    skyrl_config,
    skyrl_gradient,
    slime,
    slime_gradient,
    tinker_data,
    tinker_gradient,
)

from torchstone.frameworks.loading import default_dtype
from torchstone.frameworks.openrlhf.load import load as openrlhf_load
from torchstone.frameworks.prime_rl import settings as of_prime_rl
from torchstone.frameworks.skyrl import settings as of_skyrl
from torchstone.frameworks.skyrl.load import core
from torchstone.frameworks.slime import settings as of_slime
from torchstone.frameworks.slime.rewards import rewards
from torchstone.frameworks.tinker import settings as of_tinker
from torchstone.frameworks.tinker.plug import tinker_loss
from torchstone.recipes import RECIPES, PolicyRecipe, find

ROWS = {name: row for name, row in RECIPES.items() if isinstance(row, PolicyRecipe)}
ENTROPY = "grpo:entropy=bonus+entropy.coef=0.01+loss_kl=none"
NO_CRITIC = "ppo:value=none"


def runs(refusal, *changed: str) -> list[str]:
    """The rows of the table that are not refused, and some with changes."""
    return [name for name, row in ROWS.items() if not refusal(row)] + list(changed)


def recounted(refusal) -> list[str]:
    """The rows that SkyRL runs, those that leave out empty rows with these counted."""
    named = (f"{k}:reduction.empty_rows=counted" if "empty_rows" in r.reduction.numbers else k for k, r in ROWS.items())
    return [name for name in named if not refusal(find(name))]


def for_row(name: str, batch):
    """The batch, its sampler as near as a row's filter asks for in every second completion."""
    if find(name).sampler.numbers.get("gate") != "sequence-mean":
        return batch
    near = batch.old_log_probs + 1e-4 * torch.randn_like(batch.old_log_probs)
    kept = torch.arange(len(near))[:, None] % 2 == 0
    return replace(batch, sampler_log_probs=torch.where(kept, near, batch.sampler_log_probs))


def of_the_whole(recipe: str, batch, mask=None) -> torch.Tensor:
    """The gradient [B T] by Torchstone alone, of the row with all its terms, on the batch in one piece."""
    row, log_probs = find(recipe), leaf(batch.log_probs)
    known = {"max_length": TOKENS, "group_size": GROUP, "entropies": entropies(log_probs)} | {
        name: getattr(batch, name) for name in ("old_log_probs", "ref_log_probs", "sampler_log_probs")
    }
    mask = batch.mask if mask is None else mask
    row.loss(log_probs, batch.token_advantages, mask, **row.used("loss", known)).value.backward()
    return log_probs.grad


def entropies(log_probs: torch.Tensor) -> torch.Tensor:
    """Of a vocabulary of two."""
    other = torch.log(-torch.expm1(log_probs))
    return -(log_probs.exp() * log_probs + other.exp() * other)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() <= 1e-12


# prime-rl


@pytest.fixture(scope="module")
def prime_rl_loss():
    yield prime_rl().loss
    forget_stand_ins()


@pytest.mark.parametrize("name", runs(of_prime_rl.loss_refusal, "gspo:reduction=token-mean"))
@pytest.mark.parametrize("gaps", [False, True])
def test_prime_rl_s_sum_over_sequences_is_the_row_s_loss(prime_rl_loss, name, gaps):
    batch = policy_batch(3, gaps=gaps)
    batch = replace(batch, sampler_log_probs=batch.old_log_probs)  # it has those of the engine alone
    for split in (SPLIT, WHOLE):
        assert_same(
            prime_rl_gradient(batch, split, partial(prime_rl_loss, recipe=name)),
            of_the_whole(name, batch),
        )


def test_prime_rl_s_weights_multiply_each_token_and_0_leaves_it_out(prime_rl_loss):
    batch, name = policy_batch(4), "cispo:reduction=token-mean"
    weights = torch.rand(batch.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    weights[3:5], weights[:, 1] = 0.0, 0.0
    weighted = replace(batch, token_advantages=batch.token_advantages * weights)
    found = prime_rl_gradient(batch, SPLIT, partial(prime_rl_loss, recipe=name), weights)
    assert_same(found, of_the_whole(name, weighted, batch.mask & (weights != 0)))


def test_prime_rl_logs_a_sequence_s_means_and_a_sequence_without_a_token_gives_nothing(prime_rl_loss):
    x, name = torch.tensor([-0.5, -0.7, -0.9]), "dapo:reduction=token-mean"
    old = x - torch.tensor([0.0, 1.0, 0.0])
    found = prime_rl_loss(LossInputs(x, old, None, torch.ones(3), torch.tensor([True, True, False])), recipe=name)
    assert found.metrics["approx_kl"] == pytest.approx((torch.e - 2) / 2)  # e^u - 1 - u of u = 0 and 1
    empty = prime_rl_loss(LossInputs(x, old, None, torch.ones(3), torch.zeros(3, dtype=torch.bool)), recipe=name)
    assert empty.loss == 0 and all(value == 0 for value in empty.metrics.values())


# slime


@pytest.fixture(scope="module")
def slime_loss():
    yield slime().loss
    forget_stand_ins()


def slime_args(recipe: str, **more):
    wanted = of_slime.loss_settings(find(recipe))
    return SimpleNamespace(**SLIME | wanted | {"torchstone_recipe": recipe, "rollout_max_response_len": TOKENS} | more)


@pytest.mark.parametrize("name", runs(of_slime.loss_refusal, "dapo:reduction=token-mean", NO_CRITIC, ENTROPY))
def test_slime_s_micro_batches_and_ranks_add_up_to_the_row_s_loss(slime_loss, name):
    batch = for_row(name, policy_batch(5, gaps=True))
    expected = of_the_whole(name, batch)
    for split in (SPLIT, WHOLE):
        assert_same(slime_gradient(batch, split, slime_loss, slime_args(name)), expected)


def test_slime_without_old_log_probs_takes_the_present_ones_and_with_use_rollout_logprobs_the_engine_s(slime_loss):
    batch, name = policy_batch(5), "grpo:loss_kl=none"
    on_policy = replace(batch, old_log_probs=batch.log_probs)
    assert_same(slime_gradient(batch, SPLIT, slime_loss, slime_args(name), old=False), of_the_whole(name, on_policy))
    found = slime_gradient(batch, SPLIT, slime_loss, slime_args(name, use_rollout_logprobs=True))
    assert_same(found, of_the_whole(name, replace(batch, old_log_probs=batch.sampler_log_probs)))


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("grpo", "use_kl_loss", False),
        ("dr_grpo", "use_kl_loss", True),
        ("dr_grpo", "calculate_per_token_loss", True),
        ("dapo:reduction=token-mean", "calculate_per_token_loss", False),
        ("dr_grpo", "context_parallel_size", 2),
        ("dr_grpo", "entropy_coef", 0.1),
        ("dr_grpo", "use_tis", True),
    ],
)
def test_slime_s_other_setting_is_an_error(slime_loss, name, argument, value):
    with pytest.raises(ValueError, match=f"{argument}: the recipe {name} needs .*, got {value}"):
        slime_gradient(policy_batch(), SPLIT, slime_loss, slime_args(name, **{argument: value}))


def test_slime_counts_completions_without_a_token_and_rollouts_of_several_samples(slime_loss):
    batch = policy_batch(6)
    batch.mask[3] = False
    for name in ("dr_grpo:reduction.empty_rows=counted", "grpo:reduction.empty_rows=counted"):
        assert_same(slime_gradient(batch, SPLIT, slime_loss, slime_args(name)), of_the_whole(name, batch))
    for name in ("dapo:reduction=token-mean", "dr_grpo:reduction.empty_rows=skipped"):
        with pytest.raises(ValueError, match="slime counts completions without a token"):
            slime_gradient(batch, SPLIT, slime_loss, slime_args(name))
    with pytest.raises(ValueError, match="rollout_mask_sums: expected one sample a rollout"):
        of_slime.check_rows(find("dr_grpo"), [9, 9], torch.ones(2, 5, dtype=torch.bool))
    of_slime.check_rows(find("dapo:reduction=token-mean"), [9, 9], torch.ones(2, 5, dtype=torch.bool))


def samples(batch, order):
    lengths = batch.lengths.tolist()
    return [
        SimpleNamespace(
            group_index=i // GROUP, response_length=lengths[i], loss_mask=None if i % 2 else [1] * lengths[i],
            remove_sample=False, get_reward_value=lambda args, i=i: float(batch.rewards.flatten()[i]),
        ) for i in order
    ]  # fmt: skip


@pytest.mark.parametrize("name", runs(of_slime.advantages_refusal))
def test_slime_s_rewards_are_the_row_s_advantages_in_any_order_of_samples(name):
    batch = policy_batch(7)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    row, args = find(name), slime_args("dr_grpo", torchstone_recipe=name)
    args.rollout_max_response_len = 5000  # DAPO's penalty wants 4096 tokens
    expected = row.advantages(batch.rewards, batch.mask, **row.used("advantages", {"max_length": 5000})).advantages
    raw, found = rewards(args, samples(batch, order))
    assert raw == batch.rewards.flatten()[order].tolist()
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), expected[order, 0], rtol=0, atol=1e-12)


def test_slime_s_rewards_refuse_uneven_groups_dropped_groups_and_other_settings():
    batch, args = policy_batch(7), slime_args("dr_grpo")
    with pytest.raises(ValueError, match="samples: expected groups of one size, got 3 to 4"):
        rewards(args, samples(batch, range(11)))
    args.normalize_advantages = True
    with pytest.raises(ValueError, match="normalize_advantages: the recipe dr_grpo needs False, got True"):
        rewards(args, samples(batch, range(12)))
    same = replace(batch, rewards=torch.ones_like(batch.rewards))
    with pytest.raises(ValueError, match="drops groups of equal rewards"):
        rewards(slime_args("dr_grpo", torchstone_recipe="dapo:penalty=none"), samples(same, range(12)))
    removed = samples(batch, range(12))
    removed[5].remove_sample = True
    assert rewards(slime_args("dr_grpo"), removed)[1][5] == 0


# SkyRL


@pytest.fixture(scope="module")
def skyrl_plug():
    return skyrl()


def skyrl_settings(recipe: str):
    wanted = of_skyrl.settings(find(recipe))
    return skyrl_config(**{"max_seq_len": TOKENS} | wanted)


def from_ray(registry, name):
    """What a worker finds: the function, pickled as SkyRL's registry does."""
    return cloudpickle.loads(cloudpickle.dumps(registry.get(name)))


@pytest.mark.parametrize("name", recounted(of_skyrl.loss_refusal))
def test_skyrl_s_micro_batches_and_ranks_add_up_to_the_row_s_loss(skyrl_plug, name):
    batch = for_row(name, policy_batch(8, gaps=True))
    if find(name).loss_kl.name == "k3":  # SkyRL cuts it at 10
        batch = replace(batch, ref_log_probs=batch.log_probs + (batch.ref_log_probs - batch.log_probs).clamp(-1, 1))
    skyrl_plug.register_loss(name, "row")
    try:
        loss = from_ray(core().PolicyLossRegistry, "torchstone:row")
    finally:
        core().PolicyLossRegistry.unregister("torchstone:row")
    for split in (EVEN, WHOLE):
        found = skyrl_gradient(batch, split, loss, skyrl_settings(name), GROUP)
        assert_same(found, of_the_whole(name, batch))


def test_skyrl_s_padding_micro_batch_gives_nothing_and_no_mask_means_all(skyrl_plug):
    batch, config, name = policy_batch(8), skyrl_config(), "dapo:reduction=token-mean"
    x = leaf(batch.log_probs)
    given = (batch.old_log_probs, batch.token_advantages, config)
    value, _ = skyrl_plug.policy_loss(x, *given, torch.zeros_like(x), recipe=name)
    value.backward()
    assert value == 0 and not x.grad.any()
    everything = skyrl_plug.policy_loss(x, *given, torch.ones_like(x), recipe=name)[0]
    assert skyrl_plug.policy_loss(x, *given, recipe=name)[0] == everything != 0


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("grpo:reduction.empty_rows=counted", "use_kl_loss", False),
        ("grpo:reduction.empty_rows=counted", "kl_loss_coef", 0.5),
        ("grpo:reduction.empty_rows=counted", "kl_estimator_type", "k2"),
        ("dr_grpo:reduction.empty_rows=counted", "use_kl_loss", True),
        ("dr_grpo:reduction.empty_rows=counted", "loss_reduction", "token_mean"),
        ("dapo:reduction=token-mean", "use_entropy_loss", True),
        ("reinforce:reduction.empty_rows=counted", "max_seq_len", 7),
    ],
)
def test_skyrl_s_other_setting_is_an_error(skyrl_plug, name, setting, value):
    config = skyrl_settings(name)
    setattr(config, setting, value)
    with pytest.raises(ValueError, match=f"{setting}: the recipe {name} needs .*, got {value!r}"):
        skyrl_gradient(policy_batch(), WHOLE, partial(skyrl_plug.policy_loss, recipe=name), config, GROUP)


def test_skyrl_s_own_correction_beside_a_row_is_an_error(skyrl_plug):
    config, name = skyrl_config(), "dapo:reduction=token-mean"
    config.off_policy_correction.tis_ratio_type = "token"
    with pytest.raises(ValueError, match=r"off_policy_correction.tis_ratio_type: expected None.*sampler=weights"):
        skyrl_gradient(policy_batch(), WHOLE, partial(skyrl_plug.policy_loss, recipe=name), config, GROUP)


@pytest.mark.parametrize("name", runs(of_skyrl.advantages_refusal, "dapo:penalty=none"))
def test_skyrl_s_estimator_gives_the_row_s_advantages_in_any_order(skyrl_plug, name):
    batch, row = policy_batch(9), find(name)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    token_rewards = torch.zeros_like(batch.log_probs)
    token_rewards[torch.arange(12), batch.lengths - 1] = batch.rewards.flatten()
    known = row.used("advantages", {"values": batch.values})
    expected = row.advantages(batch.rewards, batch.mask, **known)
    skyrl_plug.register_advantages(name, "row")
    try:
        estimator = from_ray(core().AdvantageEstimatorRegistry, "torchstone:row")
    finally:
        core().AdvantageEstimatorRegistry.unregister("torchstone:row")
    found, returns = estimator(
        token_level_rewards=token_rewards[order], response_mask=batch.mask[order].long(),
        index=[f"prompt-{int(i) // GROUP}" for i in order], values=batch.values[order], config=skyrl_config(),
        gamma=1.0, lambd=1.0, grpo_norm_by_std=True,
    )  # fmt: skip
    assert torch.allclose(found, expected.advantages[order], rtol=0, atol=1e-12)
    targets = expected.advantages if expected.returns is None else expected.returns
    assert torch.allclose(returns, targets[order], rtol=0, atol=1e-12)


def test_skyrl_s_estimator_refuses_uneven_groups_dropped_groups_and_a_second_normalisation(skyrl_plug):
    rewards_, mask = torch.ones(4, 3), torch.ones(4, 3)
    run = partial(skyrl_plug.advantages, rewards_, mask, recipe="dapo:penalty=none")
    with pytest.raises(ValueError, match="index: expected groups of one size, got 1 to 3"):
        run(["a", "a", "a", "b"], config=skyrl_config())
    with pytest.raises(ValueError, match="drops groups of equal rewards; set zero_variance_filter=true"):
        run(["a", "a", "b", "b"], config=skyrl_config())
    assert not run(["a", "a", "b", "b"], config=skyrl_config(zero_variance_filter=True))[0].any()
    for name in ("advantage_batch_normalize", "use_kl_in_reward"):
        with pytest.raises(ValueError, match=f"{name}: expected False"):
            run(["a", "a", "b", "b"], config=skyrl_config(**{name: True}))


def test_skyrl_refuses_when_a_row_is_registered(skyrl_plug):
    with pytest.raises(ValueError, match="SkyRL cannot run remax: greedy rewards"):
        skyrl_plug.register_advantages("remax")
    with pytest.raises(ValueError, match=r'SkyRL cannot run ppo: .*name it "ppo:value=none"'):
        skyrl_plug.register_loss("ppo")
    assert not [name for name in core().PolicyLossRegistry.list_available() if name.startswith("torchstone")]


# tinker


def tinker_row(name: str, **more):
    numbers = {"group_size": GROUP, "max_length": TOKENS}
    return tinker_loss(name, **numbers | more)


def counts(recipe: str, batch) -> int:
    """What the row's reduction divides by, of the whole batch."""
    names = {"token-mean": int(batch.mask.sum()), "group-token-mean": 3}
    return names.get(find(recipe).reduction.name, 12)


@pytest.mark.parametrize("name", runs(of_tinker.refusal, NO_CRITIC))
def test_tinker_s_calls_add_up_to_the_row_s_loss(name):
    batch = for_row(name, policy_batch(10, gaps=True))
    more = {"old_logprobs": batch.old_log_probs, "ref_logprobs": batch.ref_log_probs}
    expected = of_the_whole(name, batch)
    with default_dtype(torch.float64):  # tinker's log-probs have it
        assert_same(tinker_gradient(batch, [slice(0, 12)], tinker_row(name), **more), expected)
        calls, loss = [slice(0, 4), slice(4, 12)], tinker_row(name, denominator=counts(name, batch))
        assert_same(tinker_gradient(batch, calls, loss, **more), expected)


def test_tinker_s_old_log_probs_are_the_sampler_s_where_there_are_no_others():
    batch = policy_batch(10)
    with default_dtype(torch.float64):
        found = tinker_gradient(batch, [slice(0, 12)], tinker_row("cispo"))
        assert_same(found, of_the_whole("cispo", replace(batch, old_log_probs=batch.sampler_log_probs)))


@pytest.mark.parametrize(("name", "key"), [("grpo", "ref_logprobs"), ("tis", "old_logprobs")])
def test_tinker_s_data_have_to_hold_what_the_row_takes(name, key):
    data = tinker_data(policy_batch(), slice(0, 12))
    logprobs = [torch.zeros(len(d.loss_fn_inputs["target_tokens"]), dtype=torch.float64) for d in data]
    with pytest.raises(ValueError, match=f"data: the recipe {name} needs {key} in each datum"):
        tinker_row(name)(data, logprobs)


# all


FRAMEWORKS = {"prime-rl": of_prime_rl, "slime": of_slime, "SkyRL": of_skyrl, "tinker": of_tinker}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_refusal_names_a_row_that_is_known_and_goes_further(framework):
    """Whoever follows the advice again and again comes to a row that is run, or to what the framework has not."""
    refusal = FRAMEWORKS[framework].refusal
    ends = set()
    for row in ROWS.values():
        reason = refusal(row)
        for _ in range(9):
            if '"' not in reason:
                break
            row = find(reason.split('"')[1])
            reason = refusal(row)
        assert '"' not in reason, (row.name, reason)
        ends.add(reason)
    assert "" in ends
    assert all(refusal(row) for row in RECIPES.values() if not isinstance(row, PolicyRecipe))


def test_an_unknown_row_and_one_of_pairs_are_errors(prime_rl_loss, slime_loss, skyrl_plug):
    calls = {
        "prime-rl": lambda name: prime_rl_loss(None, recipe=name),
        "slime": lambda name: slime_loss(SimpleNamespace(torchstone_recipe=name), {}, None, None),
        "SkyRL": skyrl_plug.register_loss,
        "tinker": tinker_loss,
    }
    for framework, call in calls.items():
        with pytest.raises(ValueError, match="gsp"):
            call("gsp")
        with pytest.raises(ValueError, match=f"recipe: {framework} cannot run dpo: .* it takes policy rows"):
            call("dpo")


def test_another_version_than_was_tested_is_a_warning(skyrl_plug, monkeypatch):
    monkeypatch.setattr("torchstone.frameworks.refusals.version", lambda name: "9.9")
    with pytest.warns(UserWarning, match=r"tinker: rows were tested with tinker-0.38.0, got tinker-9.9"):
        tinker_loss("cispo")
    for register in (skyrl_plug.register_loss, skyrl_plug.register_advantages):
        with pytest.warns(UserWarning, match=r"skyrl: .*, got skyrl-9.9"), pytest.raises(ValueError, match="dpo"):
            register("dpo")


def test_the_page_s_lines_in_openrlhf_s_actor_are_its_own_loss_where_the_row_is():
    """The lines of docs/engines.md for a copy of OpenRLHF, with GRPO's clip in place of CISPO's."""
    openrlhf_load()
    page = Path(__file__).parents[2].joinpath("docs/engines.md").read_text()
    (lines,) = [text for text in re.findall(r"^```py\n(.*?)^```", page, re.M | re.S) if "loss_batch_info" in text]
    lines = lines.replace("cispo:reduction", "grpo:loss_kl=none+reduction")
    batch, found, theirs = policy_batch(3), *(leaf(policy_batch(3).log_probs) for _ in range(2))
    counts = {"dp_size": 2, "batch_num_tokens": batch.mask.sum().double(), "global_batch_size": torch.tensor(12.0)}
    for rows in (slice(0, 5), slice(5, 12)):
        old, mask, advantages = batch.old_log_probs[rows], batch.mask[rows].long(), batch.token_advantages[rows]
        own, _, kl, *_ = import_module("openrlhf.models.loss").PolicyLoss(0.2, 0.2)(
            theirs[rows], old, advantages, action_mask=mask, **counts
        )
        names = {
            "action_log_probs": found[rows], "advantages": advantages, "action_mask": mask,
            "old_action_log_probs": old, "loss_batch_info": counts,
        }  # fmt: skip
        exec(lines, names)
        assert names["actor_loss"].item() == pytest.approx(own.item(), rel=1e-12)
        assert names["vllm_kl"] is None and names["clip_ratio"].ndim == names["ppo_kl"].ndim == kl.ndim
        own.backward()
        names["actor_loss"].backward()
    assert (found.grad - theirs.grad).abs().max() <= 1e-12
