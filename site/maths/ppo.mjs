// The critic's advantages, the clip, and weights for another program's samples. As torchstone/ppo.

import { bounded_exp, clip, minimum, mul, neg, sg, where } from "./autodiff.mjs";
import { log_ratios, number, per_token, require, row_means, row_sums, select } from "./core.mjs";
import { from_the_right } from "./reinforce.mjs";

/** PPO.3, PPO.4, PPO.5; beside advantages and returns the deltas that they are made of */
export function gae({ rewards, values, mask, gamma, lam }) {
  number("gamma", gamma, { at_least: 0, at_most: 1 });
  number("lam", lam, { at_least: 0, at_most: 1 });
  const steps = from_the_right(mask, { value: 0, advantage: 0 }, (b, t, next) => {
    const delta = rewards[b][t] + gamma * next.value - values[b][t]; // PPO.3
    const advantage = delta + gamma * lam * next.advantage; // PPO.4
    return { delta, advantage, value: values[b][t], return: advantage + values[b][t] }; // PPO.5
  });
  const all = (name) => steps.map((row) => row.map((step) => step?.[name] ?? 0));
  return { advantages: all("advantage"), returns: all("return"), deltas: all("delta") };
}

/** PPO.7, PPO.8, PPO.9 */
export function clipped_surrogate({ log_probs, old_log_probs, advantages, mask, epsilon, epsilon_high, dual_clip }) {
  const [low, high] = clip_range(epsilon, epsilon_high);
  const A = per_token(advantages, mask);
  const rho = bounded_exp(log_ratios(log_probs, old_log_probs, mask)); // PPO.7
  const loss = neg(minimum(mul(rho, A), mul(clip(rho, low, high), A))); // PPO.8
  if (dual_clip == null) return loss;
  number("dual_clip", dual_clip, { above: 1 });
  return where(lowered(A), minimum(loss, mul(-dual_clip, A)), loss); // PPO.9
}

const lowered = (A) => A.map((row) => row.map((a) => a < 0));

export function clip_range(epsilon, epsilon_high) {
  number("epsilon", epsilon, { at_least: 0 });
  number("epsilon_high", epsilon_high ?? epsilon, { at_least: 0 });
  return [1 - epsilon, 1 + (epsilon_high ?? epsilon)];
}

/** PPO.12: without a clip */
export function importance_surrogate({ log_probs, old_log_probs, advantages, mask }) {
  return neg(mul(bounded_exp(log_ratios(log_probs, old_log_probs, mask)), per_token(advantages, mask)));
}

/** PPO.13, PPO.14 (gate null: truncated), PPO.15 (masked at the level of the gate) */
export function importance_weights({
  old_log_probs,
  sampler_log_probs,
  mask,
  level,
  gate = null,
  low,
  high,
  kept_max,
}) {
  require(level in LEVELS, "level", `one of ${Object.keys(LEVELS).join(", ")}`, level);
  require(gate === null || (gate in LEVELS && gate !== "one"), "gate", "null, token, sequence or sequence-mean", gate);
  const [least, most] = [low ?? 0, high ?? Infinity];
  number("low", least, { at_least: 0 });
  require(most >= least, "high", "a number that is not below low", high);
  require(gate !== null || kept_max == null, "kept_max", "null without a gate", kept_max);
  if (kept_max != null) number("kept_max", kept_max, { at_least: 0 });
  const u = log_ratios(sg(old_log_probs), sampler_log_probs, mask);
  const weights = bounded_exp(LEVELS[level](u, mask)); // PPO.13
  if (gate === null) return select(mask, clip(weights, least, most)); // PPO.14
  const kept = bounded_exp(LEVELS[gate](u, mask)).map((row) => row.map((s) => s >= least && s <= most));
  return select(mask, where(kept, clip(weights, 0, kept_max ?? Infinity), 0)); // PPO.15
}

const LEVELS = {
  token: (u) => u,
  sequence: (u, mask) => spread(row_sums(u, mask), mask),
  "sequence-mean": (u, mask) => spread(row_means(u, mask), mask),
  one: (u) => u.map((row) => row.map(() => 0)),
};

/** One number a row [B], at every place of it [B T]. */
export const spread = (x, mask) => mask.map((row, b) => row.map(() => x[b]));
