#!/usr/bin/env bash
# A recipe of Torchstone in verl 0.9.1, which finds it by itself where both are installed: GSPO with a mean over tokens, on
# GRPO's advantages. Model, data and hardware are the arguments of this script, in verl's own words. docs/engines.md.
set -euo pipefail
export TORCHSTONE_RECIPES="mine=gspo:reduction=token-mean"
exec python -m verl.trainer.main_ppo \
  algorithm.adv_estimator=torchstone:gspo \
  actor_rollout_ref.actor.policy_loss.loss_mode=torchstone:mine \
  actor_rollout_ref.actor.use_kl_loss=False \
  actor_rollout_ref.rollout.n=8 \
  "$@"
