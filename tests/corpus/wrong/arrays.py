"""NumPy and JAX with one mistake each, as people make them."""

import jax
import jax.numpy as jnp
import numpy as np


# objective: group_advantages
# arrays: numpy
# kind: batch
# expect: caught as the batch's statistics
# named: (?i)batch|global|all (rewards|groups|samples|prompts)
def np_batch(rewards):
    return (rewards - np.mean(rewards)) / (np.std(rewards) + 1e-8)


# objective: gae
# arrays: numpy
# kind: K9
# expect: caught as lambda left out of the decay
# named: (?i)lam|monte
def np_gae_no_lam(rewards, values, mask, gamma=0.99, lam=0.95):
    adv = np.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        a = v_next = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            if mask[b, t]:
                a = rewards[b, t] + gamma * v_next - values[b, t] + gamma * a
                v_next = values[b, t]
                adv[b, t] = a
    return adv, np.where(mask, adv + values, 0.0)


# objective: kl_k3
# arrays: numpy
# kind: C32
# expect: caught as reversed
# named: (?i)revers|swap|exchang|changed places
def np_k3_reversed(logp, logp_ref, mask):
    d = np.where(mask, logp - logp_ref, 0.0)
    return np.exp(d) - 1 - d


# objective: grpo_loss
# arrays: jax
# kind: K1
# expect: caught as without gradient
# named: (?i)detach|no gradient|gradient.{0,40}(missing|lost)|without gradient|zero
def jax_stopped(logprobs, old_logprobs, advantages, mask, eps=0.2):
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.where(mask, logprobs - old_logprobs, 0.0)))
    adv = advantages[:, None]
    pg = jnp.where(mask, -jnp.minimum(ratio * adv, jnp.clip(ratio, 1 - eps, 1 + eps) * adv), 0.0)
    return (pg.sum(1) / jnp.maximum(mask.sum(1), 1)).mean()


# objective: dpo_loss
# arrays: jax
# kind: K9
# expect: caught as the reference left out
# named: (?i)reference|ref_
def jax_no_reference(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    return -jax.nn.log_sigmoid(beta * (policy_chosen_logps - policy_rejected_logps)).mean()


# objective: ppo_loss
# arrays: jax
# kind: clip
# expect: caught as max in place of min
# named: (?i)max|min|optimis|side
def jax_min_loss(log_prob, old_log_prob, advantages, mask, clip_eps=0.2):
    ratio = jnp.exp(jnp.where(mask, log_prob - old_log_prob, 0.0))
    loss = jnp.minimum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps))
    return jnp.where(mask, loss, 0.0).sum() / jnp.maximum(mask.sum(), 1)
