// What all families share: how inputs are checked, log-ratios, estimates of the KL, reductions. As torchstone/core.

import {
  add,
  bounded_expm1,
  div,
  log_softmax as log_softmax_of,
  mul,
  neg,
  sg,
  square,
  sub,
  sum,
  where,
} from "./autodiff.mjs";

/** Refuse an argument by name, with what was expected and what came. */
export function require(condition, argument, expected, got) {
  if (!condition) throw new RangeError(`${argument}: expected ${expected}, got ${JSON.stringify(got) ?? got}`);
}

export function number(argument, x, { above = -Infinity, at_least = -Infinity, at_most = Infinity } = {}) {
  const limits = Object.entries({ above, ">=": at_least, "and <=": at_most }).filter(([, v]) => Number.isFinite(v));
  const fits = Number.isFinite(x) && x > above && x >= at_least && x <= at_most;
  require(fits, argument, ["a finite number", ...limits.map(([word, v]) => `${word} ${v}`)].join(" "), x);
}

/** x where the mask is true, else 0: before any arithmetic, so that NaN in the padding reaches nothing. */
export const select = (mask, x) => where(mask, x, 0);

/** One value a sequence [B], or one a token [B T], as a constant at every token; 0 where the mask is false. */
export const per_token = (x, mask) => select(mask, sg(x));

export const log_ratios = (log_probs, other, mask) => select(mask, sub(log_probs, sg(other)));

const count = (mask) => mask.flat().filter(Boolean).length;
export const row_lengths = (mask) => mask.map((row) => row.filter(Boolean).length);
const rows_with_a_token = (mask) => row_lengths(mask).filter((n) => n > 0).length;

/** Every row's sum, and its mean over the row's chosen tokens. */
export const row_sums = (x, mask) => select(mask, x).map(sum);
export const row_means = (x, mask) =>
  div(
    row_sums(x, mask),
    row_lengths(mask).map((n) => Math.max(n, 1)),
  );

// ------------------------------------------------------------------------------------------------- KL and entropy

/** KL.1 */
export function kl_k1({ log_probs, ref_log_probs, mask }) {
  return log_ratios(log_probs, ref_log_probs, mask);
}

/** KL.2 */
export function kl_k2({ log_probs, ref_log_probs, mask }) {
  return div(square(log_ratios(log_probs, ref_log_probs, mask)), 2);
}

/** KL.3: exp(u) - 1 - u of u = log pi_ref - log pi */
export function kl_k3({ log_probs, ref_log_probs, mask }) {
  const u = neg(log_ratios(log_probs, ref_log_probs, mask));
  return sub(bounded_expm1(u), u);
}

/** log softmax(logits / temperature) over the last dimension. */
export function log_softmax(logits, temperature) {
  number("temperature", temperature, { above: 0 });
  return Array.isArray(logits[0])
    ? logits.map((x) => log_softmax(x, temperature))
    : log_softmax_of(logits, temperature);
}

const over_the_vocabulary = (f, log_p, ...others) =>
  Array.isArray(log_p[0])
    ? log_p.map((x, i) => over_the_vocabulary(f, x, ...others.map((other) => other[i])))
    : f(log_p, ...others);

/** sum_v p (log p - log q); where p is 0 nothing, to the gradient too. */
export const kl_of = (log_p, log_q) =>
  over_the_vocabulary(
    (p, q) => sum(p.map((x, v) => (Math.exp(sg(x)) === 0 ? 0 : mul(exponential(x), sub(x, q[v]))))),
    log_p,
    log_q,
  );
const exponential = (x) => add(bounded_expm1(x), 1); // of a log-probability, which is at most 0

/** KL.4 */
export function kl_exact({ logits, ref_logits, temperature }) {
  return kl_of(log_softmax(logits, temperature), sg(log_softmax(ref_logits, temperature)));
}

/** CORE.3 */
export function token_entropies({ logits, temperature }) {
  const log_p = log_softmax(logits, temperature);
  return neg(kl_of(log_p, sg(mul(where(log_p, 0, 0), 0))));
}

// ----------------------------------------------------------------------------------------------------- reductions

/** total / n, and 0 where n is 0. */
export function divided(total, n) {
  number("denominator", n, { at_least: 0 });
  return n === 0 ? 0 : div(total, n);
}

/** CORE.5: every token weighs the same. */
export function token_mean({ x, mask, denominator }) {
  return divided(sum(select(mask, x)), denominator ?? count(mask));
}

/** CORE.6: every sequence weighs the same. */
export function sequence_mean({ x, mask, denominator }) {
  return divided(sum(row_means(x, mask)), denominator ?? rows_with_a_token(mask));
}

/** CORE.7: the sum in each row, then the mean over rows. */
export function sequence_sum({ x, mask, denominator }) {
  return divided(sum(select(mask, x)), denominator ?? rows_with_a_token(mask));
}

/** CORE.8: the sum in each row over one constant length. */
export function fixed_length_mean({ x, mask, length, denominator }) {
  number("length", length, { above: 0 });
  return div(sequence_sum({ x, mask, denominator }), length);
}

/** GRPO.17: every token weighs the same within its group, and every group the same. */
export function group_token_mean({ x, mask, group_size, denominator }) {
  const fits = Number.isInteger(group_size) && group_size > 0 && mask.length % group_size === 0;
  require(fits, "group_size", `a positive integer that divides the ${mask.length} rows`, group_size);
  const groups = (rows) => chunks(rows, group_size).map((group) => group.flat());
  return sequence_mean({ x: groups(x), mask: groups(mask), denominator });
}

export const chunks = (xs, size) => xs.flatMap((_, i) => (i % size ? [] : [xs.slice(i, i + size)]));

/** The mean over pairs. */
export const mean_of_pairs = (x, denominator) => divided(sum(x), denominator ?? x.length);

/** CORE.9 */
export function masked_whiten({ x, mask, correction, eps, keep_mean = false }) {
  require(correction === 0 || correction === 1, "correction", "0 or 1", correction);
  number("eps", eps, { at_least: 0 });
  const chosen = select(mask, sg(x));
  const mean = token_mean({ x: chosen, mask });
  const centred = tied(chosen.flat(), mask.flat()) ? sub(chosen, chosen) : select(mask, sub(chosen, mean));
  const std = root_mean_square(centred.flat(), count(mask) - correction);
  const whitened = div(centred, std > 0 ? Math.hypot(std, Math.sqrt(eps)) : 1);
  return keep_mean ? select(mask, add(whitened, mean)) : whitened;
}

/** Are all counted values the same? By equality: a deviation rounds, this cannot. */
export function tied(x, counted) {
  const seen = x.filter((_, i) => counted[i]);
  return seen.every((v) => v === seen[0]);
}

/** sqrt( sum x^2 / n ), scaled first: the square of a very large or small x is no number. */
export function root_mean_square(x, n) {
  const unit = Math.max(...x.map(Math.abs)) || 1;
  return unit * Math.sqrt(x.reduce((total, v) => total + (v / unit) ** 2, 0) / Math.max(n, 1));
}
