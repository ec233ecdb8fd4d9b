// The explorers' mathematics, held to the project's own vectors in value and gradient (docs/conformance.md: the format).

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { differentiate } from "./autodiff.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const VECTORS = join(HERE, "../../torchstone/conformance/vectors");
const MODULES = ["core", "reinforce", "ppo", "grpo", "selection", "dpo", "distill"];
const OBJECTIVES = {
  core: [
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_exact",
    "token_entropies",
    "token_mean",
    "sequence_mean",
    "sequence_sum",
    "fixed_length_mean",
    "group_token_mean",
    "masked_whiten",
  ],
  reinforce: [
    "reinforce_surrogate",
    "discounted_returns",
    "leave_one_out_advantages",
    "greedy_advantages",
    "length_weighted_advantages",
    "gpg_advantages",
    "max_likelihood_advantages",
    "optimal_token_advantages",
    "batch_scaled_advantages",
  ],
  ppo: ["gae", "clipped_surrogate", "importance_surrogate", "importance_weights"],
  grpo: [
    "group_advantages",
    "mixed_groups",
    "overlong_penalties",
    "sequence_log_ratios",
    "off_policy_weights",
    "kl_k3_with_k2_gradient",
    "ratio_weighted_kl",
    "grpo_loss",
    "dapo_loss",
    "dr_grpo_loss",
    "gspo_loss",
    "cispo_loss",
    "sapo_loss",
    "gmpo_loss",
    "vespo_loss",
    "dppo_loss",
    "quadratic_loss",
    "centred_log_ratios",
    "topr_loss",
  ],
  selection: ["top_entropy_mask", "second_moment_mask", "future_kl_weights"],
  dpo: [
    "sequence_log_probs",
    "implicit_rewards",
    "dpo_loss",
    "ipo_loss",
    "robust_dpo_loss",
    "hinge_loss",
    "simpo_loss",
    "orpo_loss",
    "kto_reference_point",
    "kto_loss",
    "apo_zero_loss",
    "apo_down_loss",
    "exo_loss",
    "nca_loss",
    "bco_loss",
    "mpo_loss",
    "sppo_loss",
    "discopop_loss",
    "f_dpo_loss",
    "alphapo_loss",
    "dpop_loss",
  ],
  distill: ["teacher_advantages", "jsd_exact"],
};
const LEFT_OUT = { max_likelihood_advantages: ({ eps }) => eps !== 0 }; // torchstone adds nothing to the mean either

// ------------------------------------------------------------------------------------------------------------- reading

/** Strings that are numbers become numbers, at any depth; names, booleans and null stay. */
function parsed(x) {
  if (Array.isArray(x)) return x.map(parsed);
  if (x && typeof x === "object") return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, parsed(v)]));
  if (typeof x !== "string") return x;
  if (/^-?inf$/.test(x)) return x === "inf" ? Infinity : -Infinity;
  return x === "nan" ? NaN : Number.isNaN(Number(x)) ? x : Number(x);
}

function read(objective) {
  const file = JSON.parse(readFileSync(join(VECTORS, `${objective}.json`), "utf8"));
  const cases = file.groups.flatMap((group) => group.cases.map((c) => ({ ...c, settings: parsed(group.settings) })));
  const kept = cases.filter((c) => !LEFT_OUT[objective]?.(c.settings));
  const by = Object.keys(file.arguments).filter((name) => file.arguments[name].gradient);
  const returns = Object.keys(file.returns).filter((name) => !file.returns[name].metric);
  return { cases: kept, by, returns };
}

// ------------------------------------------------------------------------------------------------------------ comparing

const flat = (x) => [x].flat(Infinity);

/** What the function gives in this case, in the shape of the case's "expected". */
function computed(maths, objective, { by, returns }, { inputs, settings }) {
  const { reduce, length, ...others } = settings;
  const given = { ...parsed(inputs), ...others };
  if (reduce) given.reduce = (batch) => maths[reduce](length === undefined ? batch : { ...batch, length });
  else if (length !== undefined) given.length = length;
  const names = by.filter((name) => name in given);
  const { value, gradients } = differentiate(maths[objective], given, names);
  const outputs = returns.length > 1 ? value : { [returns[0]]: value };
  return { outputs, gradients };
}

/** The places where numbers differ, as text. A case's largest finite number is the unit of its tolerance. */
function differences(got, want, tolerance) {
  const places = ["outputs", "gradients"].flatMap((part) => Object.keys(want[part]).map((name) => [part, name]));
  const all = places
    .flatMap(([part, name]) => flat(want[part][name]))
    .filter(Number.isFinite)
    .map(Math.abs);
  const unit = Math.max(0, ...all) || 1;
  const compared = places.filter(([part, name]) => part === "gradients" || name in got.outputs); // not the metrics
  return compared.flatMap(([part, name]) => {
    const [ours, right] = [flat(got[part][name]), flat(want[part][name])];
    if (ours.length !== right.length) return [`${name}: ${ours.length} numbers, not ${right.length}`];
    const equal = (a, b) => b === null || Object.is(a, b) || a === b || Math.abs(a - b) <= tolerance * unit;
    return right.flatMap((b, i) => (equal(ours[i], b) ? [] : [`${part} ${name}[${i}]: ${ours[i]}, not ${b}`]));
  });
}

function faults(maths, objective, file, c) {
  if (c.result === "invalid") {
    try {
      computed(maths, objective, file, c);
    } catch (error) {
      return error instanceof RangeError ? [] : [`${error}`];
    }
    return ["it must be refused"];
  }
  const got = computed(maths, objective, file, c);
  if (!c.properties) return differences(got, parsed(c.expected), Number(c.tolerance.float64));
  return Object.entries(c.properties.signs).flatMap(([name, signs]) =>
    flat(signs).flatMap((sign, i) => {
      const slope = flat(got.gradients[name])[i];
      const right = Number.isFinite(slope) && (!sign || slope * sign > 0);
      return right ? [] : [`gradient by ${name}[${i}]: ${slope}, where the sign is ${sign}`];
    }),
  );
}

// ---------------------------------------------------------------------------------------------------------------- tests

const load = async (folder) =>
  Object.assign({}, ...(await Promise.all(MODULES.map((name) => import(pathToFileURL(join(folder, `${name}.mjs`)))))));
const maths = await load(HERE);
const held = { cases: 0, gradients: 0, refused: 0 };

for (const objective of Object.values(OBJECTIVES).flat()) {
  test(`${objective} has the numbers of its vector`, () => {
    const file = read(objective);
    for (const c of file.cases) {
      assert.deepEqual(faults(maths, objective, file, c), [], `${objective}, case ${c.id}: ${c.comment}`);
      held.cases += 1;
      if (c.result === "invalid") held.refused += 1;
      else if (file.by.some((name) => name in c.inputs)) held.gradients += 1;
    }
  });
}

test("every objective is in the module of its family, and every module is held", async () => {
  for (const [name, objectives] of Object.entries(OBJECTIVES)) {
    const module = await import(`./${name}.mjs`);
    for (const objective of objectives) assert.equal(typeof module[objective], "function", `${name}.${objective}`);
  }
});

// What must be refused beside the invalid cases: [objective, change, the argument that the message names].
const REFUSED = [
  ["clipped_surrogate", { epsilon: -0.1 }, "epsilon"],
  ["clipped_surrogate", { dual_clip: 1 }, "dual_clip"],
  ["gae", { gamma: 1.1 }, "gamma"],
  ["gae", { lam: -1 }, "lam"],
  ["kl_exact", { temperature: 0 }, "temperature"],
  ["jsd_exact", { beta: 2 }, "beta"],
  ["group_advantages", { correction: 2 }, "correction"],
  ["group_advantages", { eps: NaN }, "eps"],
  ["token_mean", { denominator: -1 }, "denominator"],
  ["fixed_length_mean", { length: 0 }, "length"],
  ["group_token_mean", { group_size: 3 }, "group_size"],
  ["cispo_loss", { epsilon_high: null, cap: null }, "epsilon_high"],
  ["sapo_loss", { tau_positive: 0 }, "tau_positive"],
  ["dppo_loss", { divergence: "chi" }, "divergence"],
  ["dpo_loss", { beta: 0 }, "beta"],
  ["dpo_loss", { label_smoothing: 1.5 }, "label_smoothing"],
  ["robust_dpo_loss", { flip_rate: 0.5 }, "flip_rate"],
  ["kto_loss", { undesirable_weight: -1 }, "undesirable_weight"],
  ["orpo_loss", { odds_coef: 0 }, "odds_coef"],
  ["exo_loss", { label_smoothing: 0 }, "label_smoothing"],
  ["bco_loss", { reward_shift: NaN }, "reward_shift"],
  ["mpo_loss", { quality_coef: -1 }, "quality_coef"],
  ["discopop_loss", { tau: 0 }, "tau"],
  ["f_dpo_loss", { divergence: "alpha", alpha: 2 }, "alpha"],
  ["f_dpo_loss", { divergence: "chi" }, "divergence"],
  ["alphapo_loss", { alpha: Infinity }, "alpha"],
  ["dpop_loss", { penalty_coef: -1 }, "penalty_coef"],
  ["importance_weights", { level: "word" }, "level"],
];
for (const [objective, change, argument] of REFUSED) {
  test(`${objective} refuses ${JSON.stringify(change)}, naming ${argument}`, () => {
    const file = read(objective);
    const c = file.cases.find((one) => one.result === "valid");
    const changed = { ...c, settings: { ...c.settings, ...change } };
    const refusal = { name: "RangeError", message: new RegExp(`^${argument}: expected .*, got `) };
    assert.throws(() => computed(maths, objective, file, changed), refusal);
  });
}

// The control: each of these mistakes in the mathematics must be seen. [module, right, wrong, objective that sees it].
const MISTAKES = [
  ["core", "neg(log_ratios(log_probs, ref_log_probs, mask))", "log_ratios(log_probs, ref_log_probs, mask)", "kl_k3"],
  ["core", "sub(log_probs, sg(other))", "sub(sg(log_probs), other)", "kl_k1"],
  ["core", "where(mask, x, 0)", "mul(x, mask.map((row) => row.map(Number)))", "token_mean"],
  ["core", "Math.hypot(std, Math.sqrt(eps))", "std + Math.sqrt(eps)", "masked_whiten"],
  ["reinforce", "n) / Math.max(n - 1, 1)", "n) / n", "leave_one_out_advantages"],
  ["reinforce", "&& !same ?", "?", "group_advantages"],
  ["ppo", "const loss = neg(minimum(", "const loss = neg(((a, b) => b)(", "clipped_surrogate"],
  ["ppo", "gamma * lam * next.advantage", "lam * next.advantage", "gae"],
  ["grpo", "const rho = sg(bounded_exp(", "const rho = (bounded_exp(", "cispo_loss"],
  ["grpo", "x / (std + eps)", "x / Math.hypot(std, Math.sqrt(eps))", "group_advantages"],
  ["grpo", "log_probs: s, old_log_probs: zeros", "log_probs: sg(s), old_log_probs: zeros", "gspo_loss"],
  ["dpo", "square(div(sub(h, 0.5), pair.beta))", "square(sub(h, 0.5))", "ipo_loss"],
  ["dpo", "where(desirable, 1, -1)", "where(desirable, 1, 1)", "kto_loss"],
  ["dpo", "relu(neg(r_w))", "relu(neg(r_l))", "dpop_loss"],
  ["dpo", "div(bounded_expm1(mul(-alpha, x)), -alpha)", "div(bounded_expm1(mul(alpha, x)), alpha)", "f_dpo_loss"],
  ["dpo", "div(bounded_expm1(mul(-alpha, x)), -alpha)", "bounded_expm1(mul(alpha, x))", "alphapo_loss"],
  ["dpo", "log_sigmoid(sub(shift, r_l))", "log_sigmoid(sub(r_l, shift))", "bco_loss"],
  ["dpo", "square(div(add(r_l, 0.5), pair.beta))", "square(div(sub(r_l, 0.5), pair.beta))", "sppo_loss"],
  ["distill", "kl_of(log_p, log_q) : kl_of(log_q, log_p)", "kl_of(log_q, log_p) : kl_of(log_p, log_q)", "jsd_exact"],
];
const copies = mkdtempSync(join(tmpdir(), "torchstone-maths-"));
after(() => rmSync(copies, { recursive: true }));
for (const [i, [module, right, wrong, objective]] of MISTAKES.entries()) {
  test(`a mistake is seen: ${wrong} in ${module}.mjs`, async () => {
    const folder = join(copies, `${i}`);
    for (const name of [...MODULES, "autodiff"]) cpSync(join(HERE, `${name}.mjs`), join(folder, `${name}.mjs`));
    const source = readFileSync(join(folder, `${module}.mjs`), "utf8");
    assert.equal(source.split(right).length, 2, `${right} stands once in ${module}.mjs`);
    writeFileSync(join(folder, `${module}.mjs`), source.replace(right, wrong));
    const mistaken = await load(folder);
    const file = read(objective);
    const seen = file.cases.filter((c) => faults(mistaken, objective, file, c).length > 0);
    assert.ok(seen.length > 0, `${objective} does not see it`);
  });
}

test("at least 500 cases are held, and their gradients", () => {
  const { cases, gradients, refused } = held;
  console.log(
    `${cases} cases of ${Object.values(OBJECTIVES).flat().length} functions: ${gradients} with gradients, ` +
      `${refused} refused`,
  );
  assert.ok(cases >= 500 && gradients >= 500, `${cases} cases, ${gradients} with gradients`);
});
