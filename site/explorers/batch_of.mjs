// The batch of explorer (g): what the reader sets for each answer, spread over its tokens.

export const [P, G, T] = [3, 4, 6]; // prompts, answers to each, the most tokens of an answer
export const B = P * G;

/** Numbers between -1 and 1 that differ from token to token and are the same at every visit. */
const pattern = (k) => (b, t) => (((b * 7 + t * 5 + k * 3) * (k + 2)) % 11) / 5 - 1;
const matrix = (f) => Array.from({ length: B }, (_, b) => Array.from({ length: T }, (_, t) => f(b, t)));
const by_prompt = (xs) => Array.from({ length: P }, (_, p) => xs.slice(p * G, (p + 1) * G));

/** Everything that a row may ask for; where the reader has no say, the same number for all. */
export function batch(s) {
  const [a, b, c, d] = [0, 1, 2, 3].map(pattern);
  const old = matrix((i, t) => -2.1 + 0.7 * a(i, t));
  const of = (f) => matrix((i, t) => old[i][t] + f(i, t));
  return {
    rewards: by_prompt(s.rewards),
    mask: matrix((i, t) => t < s.lengths[i]),
    old_log_probs: old,
    log_probs: of((i, t) => Math.log(s.ratios[i]) * (1 + 0.5 * b(i, t))),
    ref_log_probs: of((i, t) => s.away * c(i, t)),
    sampler_log_probs: of((i, t) => s.engine * d(i, t)),
    values: matrix(() => 0.5),
    energies: matrix(() => 1),
    greedy_rewards: [0.5, 0.5, 0.5],
    prompt_values: [0.5, 0.5, 0.5],
    entropies: matrix((i, t) => 1.5 + c(i, t)),
    max_length: 20480,
  };
}
