// Losses on pairs of completions, and on single ones with a thumb up or down. As torchstone/dpo.

import { add, log_sigmoid, mul, neg, relu, sg, sigmoid, square, sub, div, where } from "./autodiff.mjs";
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

/** DPO.3: h = r(chosen) - r(rejected); without a reference its log-probs count as 0 */
export function reward_margin(pair) {
  const zeros = pair.chosen_log_probs.map(() => 0);
  const { beta, ref_chosen_log_probs = zeros, ref_rejected_log_probs = zeros } = pair;
  const together = (ref_chosen_log_probs === zeros) === (ref_rejected_log_probs === zeros);
  require(together, "ref_rejected_log_probs", "both references or none", pair.ref_rejected_log_probs);
  return sub(
    implicit_rewards({ log_probs: pair.chosen_log_probs, ref_log_probs: ref_chosen_log_probs, beta }),
    implicit_rewards({ log_probs: pair.rejected_log_probs, ref_log_probs: ref_rejected_log_probs, beta }),
  );
}

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
