// A teacher's log-probs in place of a reward. As torchstone/distill.

import { add, log_add_exp, mul, sg } from "./autodiff.mjs";
import { kl_of, log_ratios, log_softmax, number } from "./core.mjs";
import { discounted_returns } from "./reinforce.mjs";

/** DISTILL.1 */
export function teacher_advantages({ log_probs, teacher_log_probs, mask, gamma }) {
  const rewards = log_ratios(sg(teacher_log_probs), log_probs, mask);
  return discounted_returns({ rewards, mask, gamma });
}

/** DISTILL.2: beta 0 is KL(pi_T || pi), beta 1 is KL(pi || pi_T) */
export function jsd_exact({ logits, teacher_logits, beta, temperature }) {
  number("beta", beta, { at_least: 0, at_most: 1 });
  const log_p = log_softmax(logits, temperature);
  const log_q = sg(log_softmax(teacher_logits, temperature));
  if (beta === 0 || beta === 1) return beta === 1 ? kl_of(log_p, log_q) : kl_of(log_q, log_p);
  const log_m = log_add_exp(add(log_q, Math.log(beta)), add(log_p, Math.log1p(-beta)));
  return add(mul(beta, kl_of(log_q, log_m)), mul(1 - beta, kl_of(log_p, log_m)));
}
