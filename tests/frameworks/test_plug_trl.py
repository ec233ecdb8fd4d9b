"""Recipes inside TRL's own trainers: TRL's weights where the row is TRL's, and what every other row needs there.

A handful of rows, one a path; all of them, on one process or more: ``python tests/frameworks/engine_trl.py``.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import engine_trl
import pytest
import torch
import trl
from datasets import Dataset
from engine_trl import (
    DISTILL,
    DPO,
    FIXED,
    HEAD,
    LONGEST,
    POLICY,
    RANKS,
    VERSION,
    difference,
    digits,
    distilled,
    flat,
    learned,
    model,
    offline,
    online,
    teacher,
    tokenizer,
)  # fmt: skip
from peft import LoraConfig
from transformers import TrainerCallback
from trl import DistillationConfig, DPOConfig, GRPOConfig
from trl.trainer.utils import add_fused_lm_head

import torchstone.frameworks.trl as plugs
from torchstone.core import token_log_probs
from torchstone.frameworks.loading import default_dtype, float32_is_float64
from torchstone.frameworks.trl import settings
from torchstone.frameworks.trl.distill_rows import ROWS as DISTILL_ROWS
from torchstone.frameworks.trl.rows import ROWS
from torchstone.recipes import find

pytestmark = pytest.mark.filterwarnings("ignore:.*takes the sampler's log-probs:UserWarning")


@pytest.fixture(autouse=True)
def constants_in_float64():
    """TRL makes a few constants with torch's default dtype."""
    with default_dtype(torch.float64):
        yield


def test_every_row_of_both_trainers_has_its_settings():
    sources = {row.name: row.source for row in [*ROWS, *DISTILL_ROWS]}
    trainers = (
        "trl/trainer/grpo_",
        "trl/trainer/rloo_",
        "trl/trainer/dpo_",
        "trl/trainer/distillation_",
        "trl/experimental/g",
    )
    of = {name for name, source in sources.items() if source.startswith(trainers)} - {f"gold@{VERSION}"}
    assert of == {f"{name}@{VERSION}" for name in [*POLICY, *DPO, *DISTILL]} and RANKS == 1


@pytest.mark.parametrize(
    "name",
    [
        "dapo",
        "bnpo",
        "luspo",
        "seq-mis",
        "deepseek-v3.2",
        "gdpo",
        "rloo",
        "ipo",
        "iterative-rpo",
        "ld-dpo",
        "wpo",
        "opd-exact",
        "opd-forward",
    ],
)
def test_the_plug_has_trls_weights_after_four_steps(name):
    """Two micro-batches a step, two iterations a batch, tool output in completions, groups cut by the shuffle."""
    apart, moved = difference(name)
    assert moved > 1e-4 and apart < 1e-12


def test_two_processes_have_trls_weights():
    """Groups of four over ranks of six rows: a group lies on both. Three reductions, pairs, a teacher."""
    rows = ["dapo", "grpo", "luspo", "dpo", "opd-exact"]
    script = str(Path(__file__).parent / "engine_trl.py")
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script, *rows]
    done = subprocess.run(
        run, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "5 rows of trl-1.16.0, 2 processes" in done.stdout


def test_a_reference_that_follows_the_policy_moves_beside_a_row_as_without_one():
    moves = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.6}
    theirs, ours = offline(**moves), offline(recipe=f"tr-dpo@{VERSION}", **moves)
    assert torch.allclose(flat(theirs.model), flat(ours.model), rtol=0, atol=1e-13)
    assert torch.allclose(flat(theirs.ref_model), flat(ours.ref_model), rtol=0, atol=1e-13)
    with pytest.warns(UserWarning, match=f"^recipe: tr-dpo@{VERSION} is DPO unless .* sync_ref_model=True"):
        still = offline(recipe=f"tr-dpo@{VERSION}")
    assert float((flat(still.model) - flat(ours.model)).abs().max()) > 1e-6


def test_the_correction_of_vllm_is_trls_for_a_row_without_one_of_its_own():
    theirs, ours = online(use_vllm=True, loss_type="dr_grpo"), online(use_vllm=True, recipe=f"dr_grpo@{VERSION}")
    assert ours.recipe.sampler == find(f"seq-mis@{VERSION}").sampler
    assert torch.allclose(flat(theirs.model), flat(ours.model), rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------------ published rows


def half_solved(prompts, completions, **_):
    """Rewards that are all 0 in half of the groups."""
    return [len(c) * (int(p[:3]) % 2) for p, c in zip(prompts, completions, strict=True)]


def partly_scored(prompts, completions, **_):
    """The same, and of some completions nothing can be said."""
    earned = half_solved(prompts, completions)
    return [None if len(c) % 3 == 0 else r for c, r in zip(completions, earned, strict=True)]


@pytest.mark.parametrize("name", ["rloo", "gspo", "dppo"])
def test_a_published_row_learns(name):
    """From random text to nothing but sevens; all rows: ``engine_trl.py --learn``."""
    with default_dtype(torch.float32):
        first, last = learned(name)
    assert first < 0.2 and last > 0.8


@pytest.mark.parametrize("reward", [half_solved, partly_scored])
@pytest.mark.parametrize("name", ["dapo:penalty.cache=2", "rloo", "reinforce++", "grpo:entropy=bonus+entropy.coef=0.1"])
def test_a_step_is_the_gradient_of_the_row_on_the_batch_uncut(name, reward):
    """Dropped groups, means over groups that TRL has shuffled apart, a KL in the reward, an entropy bonus; a completion
    that has no reward teaches nothing and enters no statistic."""
    row, batches = find(name), []

    class Kept(plugs.RecipeGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batches.append(super()._generate_and_score_completions(inputs))
            return dict(batches[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine_trl.RecipeGRPOTrainer", Kept)
        run = online(recipe=name, reward=reward, tools=False, max_steps=1, num_iterations=1)
    policy, batch = model(), batches[0]
    rewards = run._rewards.view(-1, 4)
    scored = ~rewards.isnan()
    assert scored.all() == (reward is half_solved) and rewards[scored].any() and not rewards.nan_to_num().any(1).all()
    moved = flat(run.model) - flat(policy)
    kept = row.keep(rewards, scored=scored).repeat_interleave(4) & scored.flatten()
    mask = batch["completion_mask"].bool() & kept[:, None]
    add_fused_lm_head(policy, outputs=("log_probs", "entropy"))
    with float32_is_float64(HEAD):
        log_probs, entropies, _ = run._log_probs(policy, batch, compute_entropy=True)
        old = log_probs.detach()
        given = {"old_log_probs": old, "sampler_log_probs": old, "ref_log_probs": old, "entropies": entropies}
        advantages, loss = (row.used(stage, given) for stage in ("advantages", "loss"))
        earned = row.advantages(rewards, mask, scored=scored, max_length=6, **advantages).advantages
        loss = row.loss(log_probs, earned, mask, group_size=4, max_length=6, **loss).value
        grads = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])
    assert moved.abs().max() > 1e-5
    assert torch.allclose(moved, -FIXED["learning_rate"] * grads, rtol=0, atol=1e-9 * float(moved.abs().max()))


@pytest.mark.parametrize("name", ["opd", "opd-sequence", "iw-opd", "mopd", "sdpo:signal.k=5", f"gold@{VERSION}"])
def test_a_step_of_distillation_is_the_gradient_of_the_row_on_the_batch_uncut(name):
    """Sampled tokens, a completion's sum, weights of a prefix, the likeliest tokens, another temperature."""
    row, batches = find(name), []

    class Kept(plugs.RecipeDistillationTrainer):
        def _generate_and_score_completions(self, inputs):
            batches.append(super()._generate_and_score_completions(inputs))
            return dict(batches[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine_trl.RecipeDistillationTrainer", Kept)
        run = distilled(recipe=name, max_steps=1)
    policy, batch = model(), batches[0]
    ids, attention = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    mask, width = (batch["completion_mask"] * batch["tool_mask"]).bool(), batch["completion_ids"].shape[1]
    with float32_is_float64(HEAD):  # the model's positions too, as in the run
        logits, of_teacher = (x(ids, attention_mask=attention).logits[:, -width - 1 : -1] for x in (policy, teacher()))
    log_probs, theirs = (token_log_probs(x, batch["completion_ids"], temperature=1.0) for x in (logits, of_teacher))
    given = {"logits": logits, "teacher_logits": of_teacher, "log_probs": log_probs, "teacher_log_probs": theirs}
    given |= dict.fromkeys(("old_log_probs", "sampler_log_probs"), log_probs.detach())
    loss = row.loss(mask, **row.used("loss", given)).value
    grads = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])
    moved = flat(run.model) - flat(policy)
    assert not mask.all() and moved.abs().max() > 1e-5
    assert torch.allclose(moved, -FIXED["learning_rate"] * grads, rtol=0, atol=1e-9 * float(moved.abs().max()))
    assert {"kl", "jsd"} & run.state.log_history[0].keys()


@pytest.mark.parametrize("name", ["simpo", "orpo", "dpo"])
def test_pairs_of_a_published_row_train_with_a_reference_only_where_it_has_one(name):
    run = offline(recipe=name, max_steps=2)
    assert (run.ref_model is not None) == (name == "dpo")
    assert float((flat(run.model) - flat(model())).abs().max()) > 1e-5
    logged = run.state.log_history[0]
    assert {"rewards/margins", "logps/chosen", "entropy", "mean_token_accuracy"} <= logged.keys()


def test_supervised_tokens_of_the_whole_step_count_alike():
    """A supervised term that is a mean over tokens: two micro-batches give what one of twice the size gives."""
    recipe = "iterative-rpo:sft.mean=token"
    cut = offline(recipe=recipe, max_steps=1)
    whole = offline(recipe=recipe, max_steps=1, per_device_train_batch_size=12, gradient_accumulation_steps=1)
    assert torch.allclose(flat(cut.model), flat(whole.model), rtol=0, atol=1e-13)


# Of each completion apart: what TRL alone logs.
EXTREMES = {"clip_ratio/low_min", "clip_ratio/high_max"}


def test_metrics_have_trls_names_and_numbers():
    theirs, ours = (online(**of).state.log_history for of in ({"loss_type": "grpo"}, {"recipe": f"grpo@{VERSION}"}))
    times = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
    for mine, trls in zip(ours, theirs, strict=True):
        assert mine.keys() - trls.keys() <= {"approx_kl"} and trls.keys() - mine.keys() <= EXTREMES
        assert {k: mine[k] for k in trls.keys() - times - EXTREMES} == pytest.approx(
            {k: trls[k] for k in trls.keys() - times - EXTREMES}, abs=1e-7
        )
    assert min(ours[1][f"clip_ratio/{k}"] for k in ("low_mean", "high_mean", "region_mean")) > 0


@pytest.mark.parametrize(("train", "name", "adds"), [(offline, "dpo", set()), (distilled, "opd-exact", {"jsd"})])
def test_metrics_of_pairs_and_of_distillation_have_trls_names_and_numbers(train, name, adds):
    theirs, ours = (train(max_steps=1, **of).state.log_history[0] for of in ({}, {"recipe": f"{name}@{VERSION}"}))
    assert ours.keys() - theirs.keys() == adds
    timed = theirs.keys() - {"step_time"}
    assert {k: ours[k] for k in timed} == pytest.approx({k: theirs[k] for k in timed}, abs=1e-7)


# --------------------------------------------------------------------------------------- what TRL does beside the loss


def adapter():
    """LoRA with weights of its own on both sides, so that the first step moves both."""
    return {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")}


@pytest.mark.parametrize(
    ("train", "name", "settings"),
    [(online, "grpo-kl", POLICY["grpo-kl"]), (offline, "dpo", {}), (distilled, "opd-exact", {})],
)
def test_lora_has_trls_weights(train, name, settings):
    """The reference is the model without its adapter."""
    runs = train(beside=adapter(), **settings), train(beside=adapter(), recipe=f"{name}@{VERSION}")
    theirs, ours = ({k: p for k, p in run.model.named_parameters() if p.requires_grad} for run in runs)
    assert theirs.keys() == ours.keys() and all("lora" in name for name in ours)
    moved = max(float(p.detach().abs().max()) for name, p in theirs.items() if "lora_B" in name)
    assert moved > 1e-3 and all(torch.allclose(theirs[k], ours[k], rtol=0, atol=1e-9 * moved) for k in ours)


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("train", "recipe", "beside"),
    [(online, "grpo", {"rollout_func": None}), (offline, "simpo", {}), (distilled, "opd-exact", {})],
)
def test_a_killed_run_resumes_to_the_same_weights(train, recipe, beside, tmp_path):
    """With a KL and TRL's own sampler, without a reference, with a teacher; Adam's state is the checkpoint's too."""
    given = {"recipe": recipe, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 0.01}
    whole = train(**given, beside=beside, output_dir=str(tmp_path / "whole"))
    given["output_dir"] = str(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train(**given, beside={**beside, "callbacks": [Killed()]})
    resumed = train(**given, beside=beside, resume=True)
    assert float((flat(whole.model) - flat(model())).abs().max()) > 1e-2
    assert torch.equal(flat(whole.model), flat(resumed.model))


@pytest.mark.parametrize(
    ("train", "recipe", "same", "other", "said"),
    [
        (online, "dr_grpo", "dr_grpo:surrogate.epsilon_high=none", "grpo", "dr_grpo, got grpo: .*loss_kl was none, is"),
        (offline, "dpo", "dpo:objective.beta=0.1", f"dpo@{VERSION}", "denominator was a step's, is a micro-batch's"),
        (distilled, "opd-exact", "opd-exact", "opd", "opd-exact, got opd: .*signal was "),
    ],
)
def test_a_checkpoint_names_its_recipe_and_another_is_not_resumed(train, recipe, same, other, said, tmp_path):
    given = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path)}
    train(recipe=recipe, max_steps=1, **given).save_model(str(tmp_path / "last"))
    for folder in ("checkpoint-1", "last"):
        assert sorted(x.name for x in (tmp_path / folder).glob("torchstone*")) == ["torchstone_recipe.json"]
        assert json.loads((tmp_path / folder / "torchstone_recipe.json").read_text())["recipe"] == recipe
    with pytest.raises(ValueError, match=f"recipe: expected that of .*checkpoint-1, .*{said}"):
        train(recipe=other, max_steps=2, resume=True, **given)
    assert train(recipe=same, max_steps=2, resume=True, **given).state.global_step == 2
    (tmp_path / "checkpoint-2" / "torchstone_recipe.json").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-2 has no torchstone_recipe\.json"):
        train(recipe=other, max_steps=2, resume=True, **given)


@pytest.mark.parametrize(("train", "recipe"), [(online, "rloo"), (offline, "simpo"), (offline, "wpo")])
def test_the_settings_of_the_run_stay_the_users(train, recipe):
    """TRL's constructor alone sees what makes it build a reference or not; what is saved and logged is as given."""
    args = train(recipe=recipe, max_steps=1).args
    fields = type(args).__dataclass_fields__
    names = fields.keys() & {"beta", "precompute_ref_log_probs", "use_weighting"}
    assert "beta" in names and all(getattr(args, name) == fields[name].default for name in names)


def test_evaluation_and_the_table_of_completions_have_the_rows_numbers():
    run = online(recipe=f"dr_grpo-unscaled@{VERSION}", tools=False, max_steps=1)
    run.evaluate(run.train_dataset.select(range(8)))
    rewards = run._rewards.view(-1, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)).flatten()
    logged = torch.tensor(list(run._logs["advantages"]))[-len(expected) :]
    assert torch.allclose(logged, expected, rtol=0, atol=1e-6)


def test_the_example_trains():
    root = Path(__file__).parents[2]
    run = [sys.executable, str(root / "examples" / "trl_recipe.py"), "cispo:reduction=token-mean+penalty=none"]
    done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "share of sevens" in done.stdout


def test_the_lines_of_the_page_run(tmp_path, monkeypatch):
    """docs/engines.md: TRL's lines as they stand, on the small model, for one step."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    lines = re.search(r"```py\n(from trl import .*?)```", page, re.S)[1]
    monkeypatch.chdir(tmp_path)
    for name, made in (("my-model", model()), ("teacher", teacher())):
        made.float().save_pretrained(name)
        tokenizer().save_pretrained(name)
    given = FIXED | {"max_steps": 1, "per_device_train_batch_size": 8}
    for config in (GRPOConfig, DPOConfig, DistillationConfig):
        short = {} if config is DPOConfig else {"max_completion_length": LONGEST}
        monkeypatch.setattr(f"trl.{config.__name__}", partial(config, **given, **short))
    asked = [f"{i:03d}>" for i in range(16)]
    pairs = {"prompt": asked, "chosen": ["77"] * 16, "rejected": ["1"] * 16}
    names = {"my_reward": digits, "prompts": Dataset.from_dict({"prompt": asked}), "pairs": Dataset.from_dict(pairs)}
    with default_dtype(torch.float32):
        exec(lines, names)
    assert names["trainer"].state.global_step == 1


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("train", "recipe", "given", "message"),
    [
        (online, "grpoo", {}, "recipe: expected a name in the table.*did you mean"),
        (online, "simpo", {}, "expected a row for GRPOTrainer, got simpo, which is for RecipeDPOTrainer"),
        (offline, "grpo", {}, "expected a row for DPOTrainer, got grpo, which is for RecipeGRPOTrainer"),
        (online, "ppo", {}, "TRL cannot run ppo: it needs the critic's values .* no critic"),
        (online, "remax", {}, "no greedy completion"),
        (online, "otb", {}, "norm of a token's score"),
        (offline, "kto", {}, "KTOTrainer"),
        (offline, "bco", {}, "TRL cannot run bco: .* no running mean of rewards .objective=bce"),
        (offline, "xpo", {}, "TRL cannot run xpo: .* do not say who wrote a completion"),
        (offline, "dpo", {"f_divergence_type": "js_divergence"}, 'the divergence is the row.s: recipe="f-dpo"'),
        (offline, "dpo", {"f_alpha_divergence_coef": 0.3}, 'it is 1 - alpha of the row: recipe="f-dpo"'),
        (distilled, "grpo", {}, "expected a row for DistillationTrainer, got grpo, which is for RecipeGRPOTrainer"),
        (online, "opd", {}, "expected a row for GRPOTrainer, got opd, which is for RecipeDistillationTrainer"),
        (distilled, "opd-exact:reduction=group-token-mean", {}, "one completion of a prompt"),
        (distilled, "opd:outcome=added+outcome.coef=1", {}, "no rewards"),
        (distilled, "opd", {"use_vllm": True}, "use_vllm: expected False with opd, .* asks vLLM for none"),
        (distilled, "sdpo", {}, "k: expected an integer from 1 to the vocabulary's 15, got 100"),
        (
            online,
            "grpo",
            {"beta": 0.04},
            "beta: expected TRL's default 0.0 beside a recipe, got 0.04; a KL is the row's: "
            'recipe="grpo:loss_kl.beta=0.04"',
        ),
        (online, "rloo", {"beta": 0.04}, 'recipe="rloo:reward_kl.beta=0.04"'),
        (online, "grpo:loss_kl.beta=0.1", {"beta": 0.2}, 'recipe="grpo:loss_kl.beta=0.2"'),
        (
            online,
            "dapo",
            {},
            'max_completion_length: expected at least 4096 with dapo.* got 6; .*recipe="dapo:penalty.cache=1"',
        ),
        (online, "dr_grpo", {"sync_ref_model": True}, "sync_ref_model: expected False with dr_grpo, which has no ref"),
        (offline, "simpo", {"sync_ref_model": True}, "sync_ref_model: expected False with simpo, which has no ref"),
        (online, "dr_grpo", {"entropy_coef": 0.1}, "entropy=bonus"),
        (online, "dr_grpo", {"top_entropy_quantile": 0.2}, "TRL judges one micro-batch"),
        (online, "dr_grpo", {"use_liger_kernel": True}, "without Liger's kernels"),
        (online, f"vespo@{VERSION}", {"use_vllm": True}, "inside the weight of VESPO"),
        (online, "grpo", {"num_generations": 5}, "must be divisible by num_generations"),
        (offline, "dpo", {"loss_weights": [0.5]}, "a row is one objective"),
        (offline, "ipo", {"ld_alpha": 0.5}, 'recipe="ipo:log_prob=shared-length.*log_prob.alpha=0.5"'),
        (offline, "triple-po", {}, "TRL has TPOTrainer"),
    ],
)
def test_what_trl_or_the_row_cannot_say_is_an_error_with_the_reason(train, recipe, given, message):
    with pytest.raises(ValueError, match=message):
        train(recipe=recipe, **given)


@pytest.mark.parametrize(
    ("setting", "value"), [("beta", 0.04), ("entropy_coef", 0.1), ("off_policy_mask_threshold", 2.0)]
)
@pytest.mark.parametrize("recipe", ["gspo", "gspo:reduction=token-mean"])
def test_a_suggestion_can_be_pasted(recipe, setting, value):
    with pytest.raises(ValueError, match=f"{setting}: expected") as said:
        online(recipe=recipe, **{setting: value})
    pasted = find(re.search(r'recipe="(.*?)"', str(said.value))[1])
    assert value in pasted.numbers().values() and pasted.reduction == find(recipe).reduction


@pytest.mark.parametrize(
    ("train", "recipe", "given", "written"),
    [
        (online, "dr_grpo", {"loss_type": "grpo"}, f': recipe="grpo@{VERSION}"'),
        (online, "dr_grpo", {"epsilon": 0.3}, ': recipe="dr_grpo:surrogate.epsilon=0.3"'),
        (online, "dr_grpo", {"epsilon_high": 0.3}, ': recipe="dr_grpo:surrogate.epsilon_high=0.3"'),
        (online, "reinforce", {"epsilon": 0.3}, ""),
        (offline, "dpo", {"beta": 0.3}, ': recipe="dpo:objective.beta=0.3"'),
        (distilled, "gkd", {"beta": 0.3}, ': recipe="gkd:signal.beta=0.3"'),
    ],
)
def test_a_setting_that_is_not_read_is_said_with_what_the_recipe_has_for_it(train, recipe, given, written):
    (name,) = given
    with pytest.warns(UserWarning, match=f"{name}=.* is not read: the recipe {recipe} is the loss{written}$"):
        train(recipe=recipe, max_steps=1, **given)
    assert not written or find(written.split('"')[1])


@pytest.mark.parametrize(
    ("recipe", "config", "message"),
    [
        ("grpo", DPOConfig, "args: expected a GRPOConfig, got DPOConfig"),
        (None, GRPOConfig, "recipe: expected a row's name, with changes or without, got None"),
    ],
)
def test_what_is_no_recipe_or_another_trainers_config_is_an_error(recipe, config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plugs.RecipeGRPOTrainer(
            model(), digits, config(output_dir=str(tmp_path), use_cpu=True, bf16=False), recipe=recipe
        )


def test_a_sampler_that_reports_nothing_is_missed(monkeypatch):
    silent = lambda self, prompts, trainer: {**ROLLOUT(self, prompts, trainer), "logprobs": None}  # noqa: E731
    ROLLOUT = engine_trl.Rollouts.__call__
    monkeypatch.setattr(engine_trl.Rollouts, "__call__", silent)
    with pytest.raises(ValueError, match=r"sampler_log_probs: the recipe deepseek-v3\.2@trl-1\.16\.0 needs"):
        online(recipe=f"deepseek-v3.2@{VERSION}", use_vllm=True, vllm_importance_sampling_correction=False)
    with pytest.warns(UserWarning, match="without vLLM the trainer samples"):
        online(recipe=f"tis@{VERSION}", max_steps=1)


def test_another_version_is_said(monkeypatch):
    monkeypatch.setattr("trl.__version__", "1.17.0")
    with pytest.warns(UserWarning, match=r"recipes were tested with 1\.16\.0, got 1\.17\.0"):
        online(recipe="dr_grpo", max_steps=1)
    with monkeypatch.context() as older:
        older.delattr("trl.GRPOTrainer.loss_is_scaled_for_ga")
        with pytest.raises(RuntimeError, match=r"got 1\.17\.0, whose GRPOTrainer adds up micro-batches in another way"):
            online(recipe="dr_grpo", max_steps=1)
    monkeypatch.delattr("trl.GRPOTrainer._compute_loss")
    with pytest.raises(RuntimeError, match=r"got 1\.17\.0, whose GRPOTrainer has no _compute_loss"):
        online(recipe="dr_grpo", max_steps=1)


@pytest.mark.parametrize("kind", ["GRPO", "DPO", "Distillation"])
def test_what_another_version_has_renamed_is_named(kind, monkeypatch):
    """A key of the batch that the plug does not find would be taken for one that TRL left out."""
    trainer, config = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    recipe = {"GRPO": "grpo", "DPO": "dpo", "Distillation": "opd"}[kind]
    args = config(output_dir=".", use_cpu=True, bf16=False)
    assert settings.chosen_row(recipe, trainer, args).name == recipe
    text = inspect.getsource(sys.modules[trainer.__module__])
    for name in settings.READ[f"{kind}Trainer"].split():
        assert re.search(rf"\b{name}\b", text)
        monkeypatch.setattr(settings, "getsource", lambda _, name=name: re.sub(rf"\b{name}\b", f"{name}_new", text))
        with pytest.raises(RuntimeError, match=rf"trl: expected 1\.16\.0, got .*, whose {kind}Trainer has no {name}$"):
            settings.chosen_row(recipe, trainer, args)
