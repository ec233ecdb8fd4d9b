"""verl 0.9.1 as its users configure it: the example's command line through hydra, verl's own YAML and its validation.

The composed configuration becomes the `ActorConfig` of its workers, its `ppo_loss` runs with it, and the trainer's
`compute_advantage` with `config.algorithm`. No model, no Ray and no rollout: those need a GPU.
"""

import re
import shlex
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from batch import GROUP, TOKENS, leaf, policy_batch
from cases_verl import core_algos, inputs, last, losses, model_output, proto, ray_trainer, tensordict_utils
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from torchstone.frameworks.verl import plug, settings
from torchstone.recipes import RECIPES, PolicyRecipe, find

EXAMPLE = Path(__file__).parents[2] / "examples/verl_recipe.sh"
HARDWARE = [
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
]
CORRECTION = "+actor_rollout_ref.actor.policy_loss.rollout_correction=${algorithm.rollout_correction}"
LOSS, ADVANTAGES = "actor_rollout_ref.actor.policy_loss.loss_mode", "algorithm.adv_estimator"


def composed(*overrides: str):
    """The configuration of `python -m verl.trainer.main_ppo` with these arguments, checked and resolved as there.

    The critic's part is not checked: verl loads the critic's model for that.
    """
    with initialize_config_dir(str(files("verl").joinpath("trainer/config")), version_base=None):
        config = compose("ppo_trainer", overrides=[*HARDWARE, *overrides])
    validate_config(config, need_reference_policy(config), use_critic=False)
    OmegaConf.resolve(config)
    return config


def loss_of(config, batch, weights=None):
    """ppo_loss of the whole batch with the worker's `ActorConfig`, and its gradient [B T]."""
    actor, log_probs = omega_conf_to_dataclass(config.actor_rollout_ref.actor), leaf(batch.log_probs)
    away = config.algorithm.rollout_correction.bypass_mode
    data = inputs(
        batch.mask.long(),
        old_log_probs=batch.sampler_log_probs if away else batch.old_log_probs,
        advantages=batch.token_advantages * batch.mask,
        rollout_is_weights=weights,
        ref_log_prob=batch.ref_log_probs if actor.use_kl_loss else None,
    )
    tensordict_utils.assign_non_tensor(data, dp_size=1)
    value, metrics = losses.ppo_loss(actor, {"log_probs": model_output(log_probs)}, data)
    value.backward()
    return value.detach(), log_probs.grad, metrics


def advantages_of(config, batch):
    """The trainer's compute_advantage [B T] with `config.algorithm`, as it came out of the YAML."""
    scores = torch.zeros_like(batch.log_probs)
    scores[torch.arange(len(scores)), last(batch)] = batch.rewards.flatten()
    data = proto(batch, token_level_scores=scores, token_level_rewards=scores)
    algorithm = config.algorithm
    if algorithm.use_kl_in_reward:
        controller = core_algos.get_kl_controller(algorithm.kl_ctrl)
        data, _ = ray_trainer.apply_kl_penalty(data, kl_ctrl=controller, kl_penalty=algorithm.kl_penalty)
    estimator = algorithm.adv_estimator
    data = ray_trainer.compute_advantage(data, adv_estimator=estimator, num_repeat=GROUP, config=algorithm)
    return data.batch["advantages"]


def test_the_example_s_command_line_is_a_configuration_of_verl_s(monkeypatch):
    script = EXAMPLE.read_text("utf-8")
    named = re.search(r'export TORCHSTONE_RECIPES="(.+)"', script)[1]
    module, *arguments = shlex.split(script.partition("exec python -m")[2].replace("\\\n", " "))
    assert module == "verl.trainer.main_ppo" and arguments.pop() == "$@"
    monkeypatch.setenv("TORCHSTONE_RECIPES", named)
    monkeypatch.setattr(plug, "register_adv_est", lambda _: lambda f: f)  # verl refuses a second one of a name
    plug.register()
    config = composed(*arguments)
    assert config.algorithm.adv_estimator == "torchstone:gspo" and config.actor_rollout_ref.rollout.n == 8
    batch, row = policy_batch(3), find("gspo:reduction=token-mean")
    value, gradient, metrics = loss_of(config, batch)
    log_probs = leaf(batch.log_probs)
    expected = row.loss(log_probs, batch.token_advantages, batch.mask, old_log_probs=batch.old_log_probs).value
    expected.backward()
    assert abs(value - expected) <= 1e-12 and (gradient - log_probs.grad).abs().max() <= 1e-12
    assert metrics["actor/approx_kl"].values


def written(row: PolicyRecipe) -> list[str]:
    """The arguments that a person writes for this row, by what the page and the errors say."""
    found = [f"{LOSS}=torchstone:{row.name}", f"actor_rollout_ref.actor.loss_scale_factor={TOKENS}", CORRECTION]
    for setting, (serve, _) in settings.actor_settings(row).items():
        section = "algorithm" if setting.startswith("policy_loss.") else "actor_rollout_ref.actor"
        found.append(f"{section}.{setting.removeprefix('policy_loss.')}={serve[0]}")
    if not settings.advantages_refusal(row):
        found.append(f"{ADVANTAGES}=torchstone:{row.name}")
        found += [f"algorithm.{k}={serve[0]}" for k, (serve, _) in settings.algorithm_settings(row).items()]
    return found


POLICIES = {name: row for name, row in RECIPES.items() if isinstance(row, PolicyRecipe)}
RUNS = [name for name, row in POLICIES.items() if not settings.loss_refusal(row)]


def settings_of(name: str) -> tuple[str, ...]:
    row = POLICIES[name]
    own = () if settings.advantages_refusal(row) else tuple(settings.algorithm_settings(row))
    return (*settings.actor_settings(row), *own)


@pytest.mark.parametrize("name", {settings_of(name): name for name in reversed(RUNS)}.values())  # one of each kind
def test_what_the_page_says_a_row_needs_is_what_verl_s_own_configuration_takes(name):
    config, batch, row = composed(*written(POLICIES[name])), policy_batch(3), POLICIES[name]
    weights = None
    if row.sampler.name == "weights":
        correct = import_module("verl.trainer.ppo.rollout_corr_helper").compute_rollout_correction_and_add_to_batch
        weights = correct(proto(batch), config.algorithm.rollout_correction)[0].batch["rollout_is_weights"]
    _, gradient, _ = loss_of(config, batch, weights)
    log_probs = leaf(batch.log_probs)
    tensors = {
        k: getattr(batch, k)
        for k in row.takes("loss")
        if k in vars(batch) and k not in ("log_probs", "advantages", "mask")
    }
    length = {"max_length": TOKENS} if "max_length" in row.takes("loss") else {}
    row.loss(log_probs, batch.token_advantages, batch.mask, **tensors, **length).value.backward()
    assert log_probs.grad.abs().max() > 1e-3 and (gradient - log_probs.grad).abs().max() <= 1e-9
    if not settings.advantages_refusal(row):
        tensors = {k: getattr(batch, k) for k in row.takes("advantages") if k in ("old_log_probs", "ref_log_probs")}
        expected = row.advantages(batch.rewards, batch.mask, **tensors).advantages
        assert (advantages_of(config, batch) - expected).abs().max() <= 1e-9


def test_a_row_with_a_critic_is_verl_s_own_gae_beside_its_loss():
    config = composed(f"{LOSS}=torchstone:ppo-dual-clip", f"{ADVANTAGES}=gae")
    assert need_critic(config)
    batch = policy_batch(3)
    with pytest.raises(ValueError, match=re.escape("adv_estimator=gae with critic.enable=True")):
        advantages_of(composed(f"{ADVANTAGES}=torchstone:critic"), batch)
