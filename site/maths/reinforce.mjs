// Returns, baselines, and the policy gradient. As torchstone/reinforce.

import { mul, neg, sg } from "./autodiff.mjs";
import { chunks, number, per_token, require, root_mean_square, select, tied } from "./core.mjs";

/** REINFORCE.2, REINFORCE.3 */
export function reinforce_surrogate({ log_probs, advantages, mask }) {
  return neg(mul(per_token(advantages, mask), select(mask, log_probs)));
}

/** From right to left over the chosen tokens of each row: step(b, t, what it gave at the next chosen token). */
export function from_the_right(mask, after_the_last, step) {
  return mask.map((row, b) => {
    let next = after_the_last;
    const found = row.map(() => null);
    for (let t = row.length - 1; t >= 0; t--) if (row[t]) found[t] = next = step(b, t, next);
    return found;
  });
}

/** REINFORCE.1: G_t = r_t + gamma G_{t+1}, over the chosen tokens */
export function discounted_returns({ rewards, mask, gamma }) {
  number("gamma", gamma, { at_least: 0, at_most: 1 });
  const returns = from_the_right(mask, 0, (b, t, next) => sg(rewards[b][t]) + gamma * next);
  return select(mask, returns);
}

const all_scored = (rewards) => rewards.map((row) => row.map(() => true));

/** r_i - mean r over each group's scored samples, and their number n; exactly 0 in a tied group. */
export function centred_rewards(rewards, scored = all_scored(rewards)) {
  require(rewards[0].length >= 2, "rewards", "at least 2 samples in a group (a lone sample has no baseline)", rewards);
  return rewards.map((row, p) => {
    const chosen = row.map((r, i) => (scored[p][i] ? r : 0));
    const n = scored[p].filter(Boolean).length;
    const mean = chosen.reduce((total, r) => total + r, 0) / Math.max(n, 1);
    const same = tied(chosen, scored[p]);
    return { n, mean, centred: chosen.map((r, i) => (scored[p][i] && !same ? r - mean : 0)) };
  });
}

/** REINFORCE.5 */
export function leave_one_out_advantages({ rewards, scored }) {
  return centred_rewards(rewards, scored).map(({ n, centred }) => centred.map((x) => (x * n) / Math.max(n - 1, 1)));
}

/** REINFORCE.6 */
export function greedy_advantages({ rewards, greedy_rewards, scored = all_scored(rewards) }) {
  return rewards.map((row, p) => row.map((r, i) => (scored[p][i] ? r - greedy_rewards[p] : 0)));
}

/** REINFORCE.7 */
export function length_weighted_advantages({ rewards, lengths, scored = all_scored(rewards) }) {
  return centred_rewards(rewards, scored).map(({ centred }, p) => {
    const weights = lengths[p].map((l, i) => (scored[p][i] ? l : 0));
    const total = weights.reduce((a, b) => a + b, 0);
    const baseline = weights.reduce((sum, w, i) => sum + w * centred[i], 0) / (total > 0 ? total : 1);
    return centred.map((x, i) => (scored[p][i] && total > 0 && !tied(rewards[p], scored[p]) ? x - baseline : 0));
  });
}

/** REINFORCE.8: groups without a signal are made up for by the others */
export function gpg_advantages({ rewards, scored }) {
  const groups = centred_rewards(rewards, scored);
  const mixed = groups.filter(({ centred }) => centred.some((x) => x !== 0)).length;
  return groups.map(({ centred }) => centred.map((x) => (x * groups.length) / Math.max(mixed, 1)));
}

/** REINFORCE.9 */
export function max_likelihood_advantages({ rewards, scored }) {
  return centred_rewards(rewards, scored).map(({ mean, centred }) => centred.map((x) => (mean > 0 ? x / mean : 0)));
}

/** REINFORCE.11: one scale for the whole batch, of the rewards or of what each group's mean leaves */
export function batch_scaled_advantages({ rewards, scored = all_scored(rewards), within_groups, correction, eps }) {
  require(correction === 0 || correction === 1, "correction", "0 or 1", correction);
  number("eps", eps, { at_least: 0 });
  const groups = centred_rewards(rewards, scored).map(({ centred }) => centred);
  const counted = scored.flat();
  const spread = (within_groups ? groups : rewards).flat().map((x, i) => (counted[i] ? x : 0));
  const n = counted.filter(Boolean).length;
  const mean = spread.reduce((total, x) => total + x, 0) / Math.max(n, 1);
  const away = tied(spread, counted) ? spread.map(() => 0) : spread.map((x, i) => (counted[i] ? x - mean : 0));
  const std = root_mean_square(away, n - correction);
  return groups.map((row) => row.map((x) => (std > 0 ? x / (std + eps) : x)));
}

/** REINFORCE.10: at each step, the samples that are still alive are a group */
export function optimal_token_advantages({ returns, energies, mask, group_size }) {
  const fits = Number.isInteger(group_size) && group_size >= 2 && mask.length % group_size === 0;
  require(fits, "group_size", `an integer of at least 2 that divides the ${mask.length} rows`, group_size);
  const chosen = select(mask, returns);
  const spent = select(mask, energies).map((row) => row.map((_, t) => row.slice(0, t + 1).reduce((a, b) => a + b, 0)));
  const groups = chunks(
    chosen.map((_, b) => b),
    group_size,
  );
  const steps = mask[0].map((_, t) =>
    groups.flatMap(
      (rows) =>
        length_weighted_advantages({
          rewards: [rows.map((b) => chosen[b][t])],
          lengths: [rows.map((b) => spent[b][t])],
          scored: [rows.map((b) => mask[b][t])],
        })[0],
    ),
  );
  return mask.map((row, b) => row.map((_, t) => steps[t][b]));
}
