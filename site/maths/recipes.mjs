// A row of the table of recipes, run: from rewards to the push on each token. As torchstone/recipes/columns.py.
//
// A row is { name, about, column: [option, numbers] }; a column that is off is left out. A batch is [P G] rewards and
// [B T] tensors with B = P * G, under the names of the library's arguments.

import { add, differentiate, mul, sg, sub } from "./autodiff.mjs";
import {
  chunks,
  fixed_length_mean,
  group_token_mean,
  kl_k1,
  kl_k2,
  kl_k3,
  log_ratios,
  masked_whiten,
  per_token,
  row_lengths,
  row_sums,
  select,
  sequence_mean,
  sequence_sum,
  token_mean,
} from "./core.mjs";
import * as grpo from "./grpo.mjs";
import { clipped_surrogate, gae, importance_surrogate, importance_weights, spread } from "./ppo.mjs";
import * as reinforce from "./reinforce.mjs";
import * as selection from "./selection.mjs";

/** The rows of a table as site/table.py writes it: of each its choices by their place, from 1; 0 is off. */
export const filled = ({ columns, choices, rows, lacks }) =>
  Object.entries(rows).flatMap(([of, listed]) =>
    listed.map(([short, about, ...places]) => {
      const name = of ? `${short}@${of}` : short;
      const chosen = columns.flatMap((at, i) => (places[i] ? [[at, choices[places[i] - 1]]] : []));
      return { name, about, lacks: lacks[name] ?? [], ...Object.fromEntries(chosen) };
    }),
  );

const flat = (rewards) => rewards.flat();
const ESTIMATORS = { k1: kl_k1, k2: kl_k2, k3: kl_k3 };
const group_mean = ({ rewards }) => grpo.group_advantages({ rewards, divide_by_std: false, correction: 0, eps: 0 });
const batch_mean = ({ rewards }) => chunks(group_mean({ rewards: [flat(rewards)] })[0], rewards[0].length);

const REWARD_KL = ({ old_log_probs, ref_log_probs, mask }, { estimator, beta }) =>
  mul(beta, ESTIMATORS[estimator]({ log_probs: old_log_probs, ref_log_probs, mask }));

const ADVANTAGES = {
  reward: ({ rewards }) => rewards,
  "batch-mean": batch_mean,
  "group-mean": group_mean,
  "group-std": ({ rewards }, numbers) => grpo.group_advantages({ rewards, divide_by_std: true, ...numbers }),
  "batch-std": ({ rewards }, numbers) =>
    reinforce.batch_scaled_advantages({ rewards, within_groups: false, ...numbers }),
  "batch-std-centred": ({ rewards }, numbers) =>
    reinforce.batch_scaled_advantages({ rewards, within_groups: true, ...numbers }),
  "group-mean-by-nonzero": ({ rewards }) => {
    const nonzero = flat(rewards).filter((r) => r !== 0).length;
    return group_mean({ rewards }).map((row) => row.map((x) => (x * flat(rewards).length) / Math.max(nonzero, 1)));
  },
  "leave-one-out": reinforce.leave_one_out_advantages,
  greedy: reinforce.greedy_advantages,
  "prompt-value": ({ rewards, prompt_values }) =>
    reinforce.greedy_advantages({ rewards, greedy_rewards: prompt_values }),
  "length-weighted": reinforce.length_weighted_advantages,
  gpg: reinforce.gpg_advantages,
  "max-likelihood": reinforce.max_likelihood_advantages,
  "optimal-token": ({ token_rewards, energies, mask, rewards }) => {
    const returns = reinforce.discounted_returns({ rewards: token_rewards, mask, gamma: 1 });
    return reinforce.optimal_token_advantages({ returns, energies, mask, group_size: rewards[0].length });
  },
  critic: ({ token_rewards, values, mask }, numbers) =>
    gae({ rewards: token_rewards, values, mask, ...numbers }).advantages,
};
const OF_TOKENS = ["optimal-token", "critic"]; // these give an advantage a token

const NORMALISATIONS = {
  whiten: (advantages, mask, numbers) => masked_whiten({ x: advantages, mask, ...numbers }),
  clip: (advantages, mask, { limit }) => advantages.map((row) => row.map((a) => Math.max(-limit, Math.min(limit, a)))),
};

const zeros = (mask) => mask.map((row) => row.map(() => 0));
const whole = (token_gradient) => (batch) => [
  grpo.sequence_log_ratios({ ...batch, token_gradient }),
  zeros(batch.mask),
];
const RATIOS = {
  // log-probs of now and of before, of which a surrogate takes the ratio
  token: ({ log_probs, old_log_probs }) => [log_probs, old_log_probs],
  own: ({ log_probs, old_log_probs }) => [log_probs, old_log_probs],
  sequence: whole(false),
  "sequence-token": whole(true),
  product: ({ log_probs, old_log_probs, mask }) => [
    spread(row_sums(log_ratios(log_probs, old_log_probs, mask), mask), mask),
    zeros(mask),
  ],
  "product-centred": (batch) => [
    grpo.centred_log_ratios({ ...batch, group_size: batch.rewards[0].length }),
    zeros(batch.mask),
  ],
};

const ANCHORS = {
  sampler: ({ sampler_log_probs }) => sampler_log_probs,
  reference: ({ ref_log_probs }) => ref_log_probs,
};

// What the loss of each token is multiplied by.
const TOKENS = {
  "high-entropy": ({ mask, entropies }, { share, counted }) => {
    const keep = selection.top_entropy_mask({ entropies, mask, share });
    const [n, kept] = [mask, keep].map((rows) => rows.flat().filter(Boolean).length);
    return keep.map((row) => row.map((on) => (on ? (counted === "all" ? 1 : n / kept) : 0)));
  },
  m2po: (batch, { limit }) => selection.second_moment_mask({ ...batch, limit }).map((row) => row.map(Number)),
  fipo: (batch, numbers) => selection.future_kl_weights({ ...batch, ...numbers }),
};

const SURROGATES = {
  "policy-gradient": reinforce.reinforce_surrogate,
  importance: importance_surrogate,
  clip: clipped_surrogate,
  cispo: grpo.cispo_surrogate,
  sapo: grpo.sapo_surrogate,
  gmpo: grpo.gmpo_surrogate,
  vespo: grpo.vespo_surrogate,
  dppo: grpo.dppo_surrogate,
  quadratic: grpo.quadratic_surrogate,
  topr: grpo.topr_surrogate,
};

const SAMPLERS = {
  weights: importance_weights,
  "off-policy-mask": ({ sampler_log_probs, ...batch }) =>
    grpo.off_policy_weights({ ...batch, old_log_probs: sampler_log_probs }),
};

const LOSS_KLS = {
  k1: kl_k1,
  k2: kl_k2,
  k3: kl_k3,
  "k3-k2-gradient": grpo.kl_k3_with_k2_gradient,
  "k3-by-ratio": grpo.ratio_weighted_kl,
};

const counted =
  (mean) =>
  ({ empty_rows, ...batch }) =>
    mean({ ...batch, denominator: empty_rows === "counted" ? batch.mask.length : undefined });
const REDUCTIONS = {
  "token-mean": token_mean,
  "group-token-mean": group_token_mean,
  "sequence-mean": counted(sequence_mean),
  "sequence-sum": counted(sequence_sum),
  "fixed-length": counted(({ max_length, ...batch }) => fixed_length_mean({ ...batch, length: max_length })),
};

const KNOWN = {
  penalty: ["overlong"],
  reward_kl: ["per-token", "per-sequence"],
  groups: ["mixed"],
  advantage: Object.keys(ADVANTAGES),
  normalise: Object.keys(NORMALISATIONS),
  anchor: Object.keys(ANCHORS),
  ratio: Object.keys(RATIOS),
  surrogate: Object.keys(SURROGATES),
  tokens: Object.keys(TOKENS),
  sampler: Object.keys(SAMPLERS),
  loss_kl: Object.keys(LOSS_KLS),
  reduction: Object.keys(REDUCTIONS),
};

/** What a row is made of that is not here: options by name, and tensors that a batch does not have. */
export const lacking = ({ name, about, lacks, ...columns }) => [
  ...Object.entries(columns).flatMap(([at, [option]]) => (KNOWN[at]?.includes(option) ? [] : [`${at} ${option}`])),
  ...lacks,
];

/** Each completion's reward on its last token, less what each token costs. */
function at_the_end(rewards, mask, costs) {
  const last = mask.map((row) => row.lastIndexOf(true));
  const placed = mask.map((row, b) => row.map((_, t) => (t === last[b] ? rewards[b] : 0)));
  return costs ? sub(placed, costs) : placed;
}

/** Stages 4 and 5 of a row: an advantage a token [B T]. */
export function advantages(row, batch) {
  const { mask, max_length } = batch;
  const G = batch.rewards[0].length;
  const lengths = chunks(row_lengths(mask), G);
  let rewards = batch.rewards;
  if (row.penalty) rewards = add(rewards, grpo.overlong_penalties({ lengths, max_length, ...row.penalty[1] }));
  let costs = row.reward_kl && REWARD_KL(batch, row.reward_kl[1]);
  if (row.reward_kl?.[0] === "per-sequence") {
    rewards = sub(rewards, chunks(row_sums(costs, mask), G));
    costs = undefined;
  }
  const [name, numbers] = row.advantage;
  const token_rewards = at_the_end(flat(rewards), mask, costs);
  let found = ADVANTAGES[name]({ ...batch, rewards, lengths, token_rewards }, numbers);
  if (!OF_TOKENS.includes(name)) {
    found = costs
      ? reinforce.discounted_returns({ rewards: at_the_end(flat(found), mask, costs), mask, gamma: 1 })
      : per_token(flat(found), mask);
  }
  return row.normalise ? NORMALISATIONS[row.normalise[0]](found, mask, row.normalise[1]) : found;
}

/** Stage 6 of a row: the loss, a number. */
export function loss(row, { log_probs, ...given }) {
  const { mask, max_length } = given;
  const old_log_probs = row.anchor ? ANCHORS[row.anchor[0]](given) : given.old_log_probs;
  const batch = { ...given, log_probs: select(mask, log_probs), old_log_probs };
  const [present, old] = row.ratio ? RATIOS[row.ratio[0]](batch) : [batch.log_probs];
  const [surrogate, numbers] = row.surrogate;
  const { advantages: A } = batch;
  let x = SURROGATES[surrogate]({ log_probs: present, old_log_probs: old, advantages: A, mask, ...numbers });
  if (row.tokens) x = mul(x, TOKENS[row.tokens[0]]({ ...batch, log_probs: sg(batch.log_probs) }, row.tokens[1]));
  if (row.sampler) {
    const { sampler_log_probs } = batch;
    const of = { log_probs: sg(batch.log_probs), old_log_probs, sampler_log_probs, advantages: A, mask };
    x = mul(x, SAMPLERS[row.sampler[0]]({ ...of, ...row.sampler[1] }));
  }
  if (row.loss_kl) x = add(x, mul(row.loss_kl[1].beta, LOSS_KLS[row.loss_kl[0]](batch)));
  const [reduction, more] = row.reduction;
  return REDUCTIONS[reduction]({ x, mask, max_length, group_size: given.rewards[0].length, ...more });
}

/** What a row does with a batch: its advantages, and the push (minus the gradient) on each token's log-prob. */
export function update(row, given) {
  const kept = grpo.mixed_groups(given).flatMap((keep) => given.rewards[0].map(() => keep));
  const mask = given.mask.map((tokens, b) => tokens.map((on) => on && (kept[b] || !row.groups)));
  const batch = { ...given, mask };
  const earned = advantages(row, batch);
  const run = (inputs) => loss(row, { ...inputs, advantages: earned });
  const { gradients } = differentiate(run, batch, ["log_probs"]);
  return { advantages: earned, push: gradients.log_probs.map((tokens) => tokens.map((slope) => -slope + 0)) };
}
