// Losses on pairs of completions, and on single ones with a thumb up or down. As torchstone/dpo.

import {
  BOUND,
  add,
  bounded_exp,
  bounded_expm1,
  clip,
  div,
  log1m_exp,
  log_sigmoid,
  mul,
  neg,
  relu,
  sg,
  sigmoid,
  square,
  sub,
  where,
} from "./autodiff.mjs";
import { mean_of_pairs, number, require, row_means, row_sums } from "./core.mjs";

/** DPO.1 */
export function sequence_log_probs({ log_probs, mask, average }) {
  return (average ? row_means : row_sums)(log_probs, mask);
}

/** DPO.2 */
export function implicit_rewards({ log_probs, ref_log_probs, beta }) {
  number("beta", beta, { above: 0 });
  return mul(beta, sub(log_probs, sg(ref_log_probs)));
}

/** r(chosen) and r(rejected) of DPO.2; without a reference its log-probs count as 0 */
export function reward_pair(pair) {
  const zeros = pair.chosen_log_probs.map(() => 0);
  const { beta, ref_chosen_log_probs = zeros, ref_rejected_log_probs = zeros } = pair;
  const together = (ref_chosen_log_probs === zeros) === (ref_rejected_log_probs === zeros);
  require(together, "ref_rejected_log_probs", "both references or none", pair.ref_rejected_log_probs);
  return [
    implicit_rewards({ log_probs: pair.chosen_log_probs, ref_log_probs: ref_chosen_log_probs, beta }),
    implicit_rewards({ log_probs: pair.rejected_log_probs, ref_log_probs: ref_rejected_log_probs, beta }),
  ];
}

/** DPO.3: h = r(chosen) - r(rejected) */
export const reward_margin = (pair) => sub(...reward_pair(pair));

/** DPO.4; with label_smoothing cDPO */
export function dpo_loss({ label_smoothing = 0, denominator, ...pair }) {
  number("label_smoothing", label_smoothing, { at_least: 0, at_most: 1 });
  const h = reward_margin(pair);
  const [right, flipped] = [neg(log_sigmoid(h)), neg(log_sigmoid(neg(h)))];
  return mean_of_pairs(mix(1 - label_smoothing, right, label_smoothing, flipped), denominator);
}

/** a x + b y, of which a term with weight 0 adds nothing, whatever it is. */
const mix = (a, x, b, y) => (b === 0 ? mul(a, x) : a === 0 ? mul(b, y) : add(mul(a, x), mul(b, y)));

/** DPO.7: (h / beta - 1 / (2 beta))^2 */
export function ipo_loss({ denominator, ...pair }) {
  const h = reward_margin(pair);
  return mean_of_pairs(square(div(sub(h, 0.5), pair.beta)), denominator);
}

/** DPO.8 */
export function robust_dpo_loss({ flip_rate, denominator, ...pair }) {
  number("flip_rate", flip_rate, { at_least: 0 });
  require(flip_rate < 0.5, "flip_rate", "a finite number >= 0 and < 0.5", flip_rate);
  const h = reward_margin(pair);
  const loss = mix(-(1 - flip_rate), log_sigmoid(h), flip_rate, log_sigmoid(neg(h)));
  return mean_of_pairs(div(loss, 1 - 2 * flip_rate), denominator);
}

/** DPO.9 */
export function hinge_loss({ delta, denominator, ...pair }) {
  number("delta", delta, { at_least: 0 });
  return mean_of_pairs(relu(sub(delta, reward_margin(pair))), denominator);
}

/** DPO.10, of mean log-probs and without a reference */
export function simpo_loss({ chosen_log_probs, rejected_log_probs, beta, gamma, denominator }) {
  number("gamma", gamma, { at_least: 0 });
  const h = reward_margin({ chosen_log_probs, rejected_log_probs, beta });
  return mean_of_pairs(neg(log_sigmoid(sub(h, gamma))), denominator);
}

/** log p - log(1 - p); above +20 its tangent */
function log_odds(log_p) {
  const last = -Math.log1p(Math.exp(-BOUND));
  const below = clip(log_p, -Infinity, last);
  return add(sub(below, log1m_exp(below)), mul(1 + Math.exp(BOUND), relu(sub(log_p, last))));
}

/** DPO.11, DPO.12, of mean log-probs and without a reference */
export function orpo_loss({ chosen_log_probs, rejected_log_probs, odds_coef, sft_coef, denominator }) {
  number("odds_coef", odds_coef, { above: 0 });
  number("sft_coef", sft_coef, { at_least: 0 });
  const preferred = log_sigmoid(sub(log_odds(chosen_log_probs), log_odds(rejected_log_probs)));
  return mean_of_pairs(sub(mul(-sft_coef, chosen_log_probs), mul(odds_coef, preferred)), denominator);
}

/** DPO.15 */
export function apo_zero_loss({ denominator, ...pair }) {
  const [r_w, r_l] = reward_pair(pair);
  return mean_of_pairs(add(sigmoid(neg(r_w)), sigmoid(r_l)), denominator);
}

/** DPO.16 */
export function apo_down_loss({ denominator, ...pair }) {
  const [r_w, r_l] = reward_pair(pair);
  return mean_of_pairs(add(sigmoid(r_w), sigmoid(sub(r_l, r_w))), denominator);
}

/** DPO.20: KL( (sigmoid(h), sigmoid(-h)) || (1 - e, e) ) */
export function exo_loss({ label_smoothing, denominator, ...pair }) {
  number("label_smoothing", label_smoothing, { above: 0, at_most: 0.5 });
  const h = reward_margin(pair);
  const part = (x, log_share) => mul(sigmoid(x), sub(log_sigmoid(x), log_share));
  const losses = add(part(h, Math.log1p(-label_smoothing)), part(neg(h), Math.log(label_smoothing)));
  return mean_of_pairs(losses, denominator);
}

/** DPO.21 */
export function nca_loss({ denominator, ...pair }) {
  const [r_w, r_l] = reward_pair(pair);
  const noise = add(log_sigmoid(neg(r_w)), log_sigmoid(neg(r_l)));
  return mean_of_pairs(neg(add(log_sigmoid(r_w), div(noise, 2))), denominator);
}

const judged = ([r_w, r_l], shift) => neg(add(log_sigmoid(sub(r_w, shift)), log_sigmoid(sub(shift, r_l))));

/** DPO.22 */
export function bco_loss({ reward_shift, denominator, ...pair }) {
  number("reward_shift", reward_shift);
  return mean_of_pairs(judged(reward_pair(pair), reward_shift), denominator);
}

/** DPO.31, without its supervised term */
export function mpo_loss({ preference_coef, quality_coef, reward_shift, denominator, ...pair }) {
  number("preference_coef", preference_coef, { at_least: 0 });
  number("quality_coef", quality_coef, { at_least: 0 });
  number("reward_shift", reward_shift);
  const rewards = reward_pair(pair);
  const compared = mul(-preference_coef, log_sigmoid(sub(...rewards)));
  return mean_of_pairs(add(compared, mul(quality_coef, judged(rewards, reward_shift))), denominator);
}

/** DPO.23 in its hard form: win rates 1 and 0 */
export function sppo_loss({ denominator, ...pair }) {
  const [r_w, r_l] = reward_pair(pair);
  const losses = add(square(div(sub(r_w, 0.5), pair.beta)), square(div(add(r_l, 0.5), pair.beta)));
  return mean_of_pairs(losses, denominator);
}

/** DPO.24 */
export function discopop_loss({ tau, denominator, ...pair }) {
  number("tau", tau, { above: 0 });
  const h = reward_margin(pair);
  const logistic = mul(sigmoid(neg(div(h, tau))), log_sigmoid(h));
  return mean_of_pairs(sub(bounded_exp(sub(log_sigmoid(div(h, tau)), h)), logistic), denominator);
}

/** DPO.35 */
export function power_reward({ x, alpha }) {
  number("alpha", alpha);
  return Math.abs(alpha) < 1e-20 ? x : div(bounded_expm1(mul(-alpha, x)), -alpha);
}

/** g of DPO.36 */
function shape(divergence, alpha) {
  const known = ["reverse-kl", "forward-kl", "alpha", "js"];
  require(known.includes(divergence), "divergence", `one of ${known.join(", ")}`, divergence);
  if (divergence === "alpha") number("alpha", alpha, { above: 0, at_most: 1 });
  else require(alpha === null, "alpha", `null beside the divergence ${divergence}`, alpha);
  if (divergence === "js") return (x) => add(Math.log(2), log_sigmoid(x));
  return (x) => power_reward({ x, alpha: { "reverse-kl": 0, "forward-kl": 1 }[divergence] ?? alpha });
}

/** DPO.36 */
export function f_dpo_loss({ beta, divergence, alpha = null, denominator, ...pair }) {
  number("beta", beta, { above: 0 });
  const [r_w, r_l] = reward_pair({ ...pair, beta: 1 }).map(shape(divergence, alpha));
  return mean_of_pairs(neg(log_sigmoid(mul(beta, sub(r_w, r_l)))), denominator);
}

/** DPO.37, of mean log-probs and without a reference */
export function alphapo_loss({ chosen_log_probs, rejected_log_probs, beta, gamma, alpha, denominator }) {
  number("beta", beta, { above: 0 });
  number("gamma", gamma, { at_least: 0 });
  const [r_w, r_l] = [chosen_log_probs, rejected_log_probs].map((x) => mul(beta, power_reward({ x, alpha })));
  return mean_of_pairs(neg(log_sigmoid(sub(sub(r_w, r_l), gamma))), denominator);
}

/** DPO.39 */
export function dpop_loss({ penalty_coef, denominator, ...pair }) {
  number("penalty_coef", penalty_coef, { at_least: 0 });
  const [r_w, r_l] = reward_pair(pair);
  const charged = sub(sub(r_w, r_l), mul(penalty_coef, relu(neg(r_w))));
  return mean_of_pairs(neg(log_sigmoid(charged)), denominator);
}

/** DPO.13 */
export function kto_reference_point({ log_probs, ref_log_probs }) {
  return Math.max(0, sg(mean_of_pairs(sub(log_probs, sg(ref_log_probs)))));
}

/** DPO.14 */
export function kto_loss({
  log_probs,
  ref_log_probs,
  desirable,
  beta,
  reference_point,
  desirable_weight,
  undesirable_weight,
  denominator,
}) {
  number("beta", beta, { above: 0 });
  for (const [name, x] of Object.entries({ desirable_weight, undesirable_weight, reference_point })) {
    number(name, x, { at_least: 0 });
  }
  const u = sub(log_probs, sg(ref_log_probs));
  const [s, w] = [where(desirable, 1, -1), where(desirable, desirable_weight, undesirable_weight)];
  return mean_of_pairs(mul(w, sub(1, sigmoid(mul(mul(s, beta), sub(u, reference_point))))), denominator);
}
