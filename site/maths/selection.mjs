// Which tokens teach, judged on the whole batch. As torchstone/grpo/selection.

import { bounded_exp, clip, sg, where } from "./autodiff.mjs";
import { log_ratios, number, per_token, select } from "./core.mjs";
import { from_the_right } from "./reinforce.mjs";

/** GRPO.18: the share of the chosen tokens at which the policy was least sure */
export function top_entropy_mask({ entropies, mask, share }) {
  number("share", share, { above: 0, at_most: 1 });
  const ordered = entropies
    .flat()
    .filter((_, i) => mask.flat()[i])
    .map((h) => sg(h))
    .sort((a, b) => a - b);
  const place = (1 - share) * (ordered.length - 1);
  const [below, above] = [ordered[Math.floor(place)], ordered[Math.ceil(place)]];
  const least = below + (above - below) * (place - Math.floor(place));
  return mask.map((row, b) => row.map((on, t) => on && sg(entropies[b][t]) >= least));
}

/** GRPO.22: of the tokens that moved as their advantage says, the furthest go until the mean square of the rest is small */
export function second_moment_mask({ log_probs, old_log_probs, advantages, mask, limit }) {
  number("limit", limit, { at_least: 0 });
  const u = log_ratios(sg(log_probs), old_log_probs, mask);
  const A = per_token(advantages, mask);
  const moved = u.flatMap((row, b) => row.flatMap((x, t) => (x * A[b][t] > 0 ? [[x * x, b, t]] : [])));
  const keep = mask.map((row) => [...row]);
  let total = 0;
  moved
    .sort(([x], [y]) => x - y)
    .forEach(([x, b, t], i) => {
      total += x;
      if (total / (i + 1) > limit) keep[b][t] = false;
    });
  return keep;
}

/** GRPO.23: a token weighs more if the policy has since moved towards what came after it */
export function future_kl_weights({ log_probs, old_log_probs, advantages, mask, ...numbers }) {
  const { half_life, epsilon, epsilon_high, limit, reset } = numbers;
  number("half_life", half_life, { above: 0 });
  number("epsilon", epsilon, { at_least: 0, at_most: 1 });
  number("epsilon_high", epsilon_high, { at_least: 0 });
  const u = log_ratios(sg(log_probs), old_log_probs, mask);
  const [rho, A] = [bounded_exp(u), per_token(advantages, mask)];
  const counted = (b, t) => (limit != null && rho[b][t] > limit ? 0 : u[b][t]);
  const future = from_the_right(mask, 0, (b, t, next) => counted(b, t) + 2 ** (-1 / half_life) * next);
  const weights = clip(bounded_exp(select(mask, future)), 1 - epsilon, 1 + epsilon_high);
  const held = mask.map((row, b) => row.map((_, t) => reset != null && A[b][t] < 0 && rho[b][t] > reset));
  return select(mask, where(held, 1, weights));
}
