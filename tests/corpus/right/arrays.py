"""NumPy and JAX, right, as people write them."""

import jax
import jax.numpy as jnp
import numpy as np


# objective: group_advantages
# expect: edges
# arrays: numpy
# at: divide_by_std=True, correction=0, eps=1e-8
# style: NumPy, its deviation
def np_group(rewards):
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims=True) + 1e-8)


# objective: gae
# expect: pass
# arrays: numpy
# style: NumPy, a row at a time
def np_gae(rewards, values, mask, gamma=0.99, lam=0.95):
    adv = np.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        a = v_next = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            if mask[b, t]:
                a = rewards[b, t] + gamma * v_next - values[b, t] + gamma * lam * a
                v_next = values[b, t]
                adv[b, t] = a
    return adv, np.where(mask, adv + values, 0.0)


# objective: kl_k3
# expect: pass
# arrays: numpy
# style: NumPy
def np_k3(logp, logp_ref, mask):
    d = np.where(mask, logp_ref - logp, 0.0)
    return np.expm1(d) - d


# objective: discounted_returns
# expect: edges
# arrays: numpy
# style: NumPy
def np_returns(rewards, mask, gamma=0.99):
    out = np.zeros_like(rewards)
    running = np.zeros(rewards.shape[0], dtype=rewards.dtype)
    for t in reversed(range(rewards.shape[1])):
        running = np.where(mask[:, t], rewards[:, t] + gamma * running, running)
        out[:, t] = running
    return out * mask


# objective: overlong_penalties
# expect: pass
# arrays: numpy
# style: np.clip
def np_overlong(lengths, max_length=16, cache=4):
    return np.clip((max_length - cache - lengths) / cache, -1.0, 0.0)


# objective: grpo_loss
# expect: edges
# arrays: jax
# style: JAX, where against NaN
def jax_grpo(logprobs, old_logprobs, ref_logprobs, advantages, mask, eps=0.2, beta=0.04):
    ratio = jnp.exp(jnp.where(mask, logprobs - old_logprobs, 0.0))
    adv = advantages[:, None]
    pg = -jnp.minimum(ratio * adv, jnp.clip(ratio, 1 - eps, 1 + eps) * adv)
    gap = jnp.where(mask, ref_logprobs - logprobs, 0.0)
    tok = jnp.where(mask, pg + beta * (jnp.exp(gap) - gap - 1), 0.0)
    return (tok.sum(1) / jnp.maximum(mask.sum(1), 1)).mean()


# objective: dpo_loss
# expect: pass
# arrays: jax
# style: JAX
def jax_dpo(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    h = beta * ((policy_chosen_logps - ref_chosen_logps) - (policy_rejected_logps - ref_rejected_logps))
    return -jax.nn.log_sigmoid(h).mean()


# objective: ppo_loss
# expect: edges
# arrays: jax
# at: reduce=token_mean
# style: JAX
def jax_ppo(log_prob, old_log_prob, advantages, mask, clip_eps=0.2):
    ratio = jnp.exp(log_prob - old_log_prob)
    loss = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps))
    return (loss * mask).sum() / mask.sum()
