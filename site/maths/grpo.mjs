// Group advantages, and what came after PPO's clip. As torchstone/grpo.

import { add, bounded_exp, clip, minimum, mul, neg, sg, sigmoid, square, sub, sum, where, div } from "./autodiff.mjs";
import {
  chunks,
  kl_k2,
  kl_k3,
  log_ratios,
  number,
  per_token,
  require,
  root_mean_square,
  row_means,
  row_sums,
  select,
  tied,
} from "./core.mjs";
import { clip_range, clipped_surrogate, spread } from "./ppo.mjs";
import { centred_rewards, reinforce_surrogate } from "./reinforce.mjs";

/** GRPO.1, and with divide_by_std GRPO.2 */
export function group_advantages({ rewards, divide_by_std, correction, eps, scored }) {
  require(correction === 0 || correction === 1, "correction", "0 or 1", correction);
  number("eps", eps, { at_least: 0 });
  return centred_rewards(rewards, scored).map(({ n, centred }) => {
    const std = root_mean_square(centred, n - correction);
    return divide_by_std && std > 0 ? centred.map((x) => x / (std + eps)) : centred;
  });
}

/** GRPO.3 */
export function grpo_loss({ reduce, beta, kl = kl_k3, ref_log_probs, ...batch }) {
  number("beta", beta, { at_least: 0 });
  require(beta === 0 || ref_log_probs, "ref_log_probs", "a tensor, since beta is not 0", ref_log_probs);
  const loss = clipped_surrogate(batch);
  const { log_probs, mask } = batch;
  return reduce({ x: beta > 0 ? add(loss, mul(beta, kl({ log_probs, ref_log_probs, mask }))) : loss, mask });
}

/** GRPO.4 (GSPO), and with token_gradient GRPO.5 (GSPO-token) */
export function sequence_log_ratios({ log_probs, old_log_probs, mask, token_gradient }) {
  const token = log_ratios(log_probs, old_log_probs, mask);
  const sequence = spread(row_means(token, mask), mask); // GRPO.4
  return select(mask, token_gradient ? sub(add(sg(sequence), token), sg(token)) : sequence); // GRPO.5
}

/** GRPO.6 */
export function overlong_penalties({ lengths, max_length, cache }) {
  number("cache", cache, { above: 0 });
  number("max_length", max_length, { at_least: cache });
  return clip(div(sub(max_length - cache, lengths), cache), -1, 0);
}

/** GRPO.7: does the group hold more than one reward? */
export function mixed_groups({ rewards, scored }) {
  return rewards.map((row, p) => !tied(row, scored?.[p] ?? row.map(() => true)));
}

/** GRPO.8, and with a cap GRPO.9 */
export function cispo_surrogate({ log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high, cap }) {
  require((epsilon_high == null) !== (cap == null), "epsilon_high", "either epsilon_high or cap", [epsilon_high, cap]);
  for (const [name, x] of Object.entries({ epsilon, epsilon_high, cap }))
    if (x != null) number(name, x, { at_least: 0 });
  const [low, high] = [epsilon == null ? 0 : 1 - epsilon, cap ?? 1 + epsilon_high];
  require(cap == null || cap >= low, "cap", `a number of at least 1 - epsilon, ${low}`, cap);
  const rho = sg(bounded_exp(log_ratios(log_probs, old_log_probs, mask)));
  return mul(clip(rho, low, high), reinforce_surrogate({ log_probs, advantages, mask }));
}

/** GRPO.10 */
export function sapo_surrogate({ log_probs, old_log_probs, advantages, mask, tau_positive, tau_negative }) {
  number("tau_positive", tau_positive, { above: 0 });
  number("tau_negative", tau_negative, { above: 0 });
  const A = per_token(advantages, mask);
  const rho = bounded_exp(log_ratios(log_probs, old_log_probs, mask));
  const tau = A.map((row) => row.map((a) => (a > 0 ? tau_positive : tau_negative)));
  const f = mul(div(4, tau), sigmoid(mul(tau, sub(rho, 1))));
  return neg(mul(f, A));
}

/** GRPO.11 */
export function gmpo_surrogate({ log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high }) {
  clip_range(epsilon, epsilon_high);
  const A = per_token(advantages, mask);
  const u = log_ratios(log_probs, old_log_probs, mask);
  const raised = A.map((row) => row.map((a) => a > 0));
  const c = where(raised, clip(u, -Infinity, epsilon_high ?? epsilon), clip(u, -epsilon, Infinity));
  return neg(mul(spread(bounded_exp(row_means(c, mask)), mask), A));
}

/** GRPO.12 */
export function vespo_surrogate({ log_probs, old_log_probs, advantages, mask, ...numbers }) {
  for (const [name, x] of Object.entries(numbers)) number(name, x, { at_least: 0 });
  const { k_positive, lambda_positive, k_negative, lambda_negative } = numbers;
  const raised = per_token(advantages, mask).map((row) => row.map((a) => a >= 0));
  const log_w = spread(row_sums(sg(log_ratios(log_probs, old_log_probs, mask)), mask), mask);
  const [k, rate] = [where(raised, k_positive, k_negative), where(raised, lambda_positive, lambda_negative)];
  const phi = bounded_exp(add(mul(k, log_w), mul(rate, sub(1, bounded_exp(log_w)))));
  return mul(phi, reinforce_surrogate({ log_probs, advantages, mask }));
}

/** GRPO.13 */
export function dppo_surrogate({ log_probs, old_log_probs, advantages, mask, divergence, epsilon, epsilon_high, cap }) {
  require(divergence in DIVERGENCES, "divergence", "'tv' or 'kl'", divergence);
  clip_range(epsilon, epsilon_high);
  if (cap != null) number("cap", cap, { above: 0 });
  const A = per_token(advantages, mask);
  const [log_p, log_q] = [select(mask, sg(log_probs)), select(mask, sg(old_log_probs))];
  const rho = bounded_exp(sub(log_p, log_q));
  const weights = A.map((row, b) =>
    row.map((a, t) => {
      const d = DIVERGENCES[divergence](log_p[b][t], log_q[b][t]);
      const [up, down] = [log_p[b][t] > log_q[b][t], log_p[b][t] < log_q[b][t]];
      const dropped = a > 0 ? d > (epsilon_high ?? epsilon) && up : d > epsilon && down;
      return dropped ? 0 : Math.min(rho[b][t], cap ?? Infinity);
    }),
  );
  return mul(weights, reinforce_surrogate({ log_probs, advantages, mask }));
}

const none_of = (log_p) => Math.max(-Math.expm1(log_p), Number.EPSILON / 2); // 1 - p
const DIVERGENCES = {
  tv: (log_p, log_q) => Math.abs(Math.exp(log_p) - Math.exp(log_q)),
  kl: (log_p, log_q) => Math.exp(log_q) * (log_q - log_p) + none_of(log_q) * Math.log(none_of(log_q) / none_of(log_p)),
};

/** GRPO.14: sg[k3] + k2 - sg[k2] */
export function kl_k3_with_k2_gradient(batch) {
  const k2 = kl_k2(batch);
  return sub(add(sg(kl_k3(batch)), k2), sg(k2));
}

/** GRPO.15: rho KL, with gradient through rho */
export function ratio_weighted_kl({ log_probs, old_log_probs, ref_log_probs, mask, kl = kl_k3 }) {
  const rho = bounded_exp(log_ratios(log_probs, old_log_probs, mask));
  return mul(rho, kl({ log_probs, ref_log_probs, mask }));
}

/** GRPO.16: 0 for a bad completion that the policy has left too far behind */
export function off_policy_weights({ log_probs, old_log_probs, advantages, mask, limit }) {
  number("limit", limit, { at_least: 0 });
  const behind = neg(sequence_log_ratios({ log_probs: sg(log_probs), old_log_probs, mask, token_gradient: false }));
  const A = per_token(advantages, mask);
  return mask.map((row, b) => row.map((on, t) => (on && !(A[b][t] < 0 && behind[b][t] > limit) ? 1 : 0)));
}

/** GRPO.24: the log-ratio is pulled to A / tau */
export function quadratic_surrogate({ log_probs, old_log_probs, advantages, mask, tau }) {
  number("tau", tau, { at_least: 0 });
  const s = log_ratios(log_probs, old_log_probs, mask);
  return sub(mul(tau / 2, square(s)), mul(per_token(advantages, mask), s));
}

/** GRPO.25: the completion's summed log-ratio less the mean of its group's */
export function centred_log_ratios({ log_probs, old_log_probs, mask, group_size }) {
  const fits = Number.isInteger(group_size) && group_size > 0 && mask.length % group_size === 0;
  require(fits, "group_size", `a positive integer that divides the ${mask.length} rows`, group_size);
  const whole = row_sums(log_ratios(log_probs, old_log_probs, mask), mask);
  const chose = mask.map((row) => row.some(Boolean));
  const means = chunks(whole, group_size).map((group, p) =>
    div(sum(group), Math.max(chose.slice(p * group_size, (p + 1) * group_size).filter(Boolean).length, 1)),
  );
  return select(
    mask,
    spread(
      whole.map((s, b) => sub(s, means[Math.floor(b / group_size)])),
      mask,
    ),
  );
}

/** GRPO.26: the whole completion's ratio as a weight, between other bounds for good ones than for bad */
export function topr_surrogate({ log_probs, old_log_probs, advantages, mask, ...bounds }) {
  for (const side of ["positive", "negative"]) {
    number(`low_${side}`, bounds[`low_${side}`], { at_least: 0 });
    number(`high_${side}`, bounds[`high_${side}`], { at_least: bounds[`low_${side}`] });
  }
  const W = spread(bounded_exp(row_sums(sg(log_ratios(log_probs, old_log_probs, mask)), mask)), mask);
  const good = per_token(advantages, mask).map((row) => row.map((a) => a >= 0));
  const between = (side) => clip(W, bounds[`low_${side}`], bounds[`high_${side}`]);
  const weights = where(good, between("positive"), between("negative"));
  return mul(weights, reinforce_surrogate({ log_probs, advantages, mask }));
}

// Whole losses: a surrogate and how its tokens become one number.

export const dapo_loss = ({ reduce, ...batch }) => reduce({ x: clipped_surrogate(batch), mask: batch.mask });
export const dr_grpo_loss = dapo_loss;
export const cispo_loss = ({ reduce, ...batch }) => reduce({ x: cispo_surrogate(batch), mask: batch.mask });
export const sapo_loss = ({ reduce, ...batch }) => reduce({ x: sapo_surrogate(batch), mask: batch.mask });
export const gmpo_loss = ({ reduce, ...batch }) => reduce({ x: gmpo_surrogate(batch), mask: batch.mask });
export const vespo_loss = ({ reduce, ...batch }) => reduce({ x: vespo_surrogate(batch), mask: batch.mask });
export const quadratic_loss = ({ reduce, ...batch }) => reduce({ x: quadratic_surrogate(batch), mask: batch.mask });
export const topr_loss = ({ reduce, ...batch }) => reduce({ x: topr_surrogate(batch), mask: batch.mask });
export const dppo_loss = ({ reduce, ...batch }) => reduce({ x: dppo_surrogate(batch), mask: batch.mask });

/** GRPO.4 in PPO.8 */
export function gspo_loss({ reduce, log_probs, old_log_probs, mask, ...others }) {
  const s = sequence_log_ratios({ log_probs, old_log_probs, mask, token_gradient: false });
  const zeros = mask.map((row) => row.map(() => 0));
  return reduce({ x: clipped_surrogate({ log_probs: s, old_log_probs: zeros, mask, ...others }), mask });
}
