// Numbers that know where they came from, so that a function's gradient follows from the function itself.
//
// A tensor is a nested array of numbers. Each operation works on numbers and, place by place, on nested arrays of them;
// a number meets every place of an array, and the b-th entry of a [B] every place of row b of a [B T].

let made = 0;

class Node {
  constructor(value, parents) {
    this.value = value;
    this.parents = parents; // [node, slope of this one by it]
    this.slope = 0;
    this.id = made++;
  }
}

/** The plain number, or the tensor of plain numbers: what torch calls detach, and the equations sg[.]. */
export const sg = lift((x) => plain(x));

function plain(x) {
  return x instanceof Node ? x.value : x;
}

/** A result and its slope by each operand. Where a slope is 0 nothing flows, so 0 * inf never happens. */
function result(value, ...slopes) {
  const parents = slopes.filter(([x, slope]) => x instanceof Node && slope !== 0);
  return parents.length ? new Node(value, parents) : value;
}

/** A function of numbers, made to work on nested arrays of them. */
export function lift(f) {
  const lifted = (...xs) => {
    const some = xs.find(Array.isArray);
    return some ? some.map((_, i) => lifted(...xs.map((x) => (Array.isArray(x) ? x[i] : x)))) : f(...xs);
  };
  return lifted;
}

const unary = (value, slope) => lift((x) => result(value(plain(x)), [x, slope(plain(x))]));

export const add = lift((a, b) => result(plain(a) + plain(b), [a, 1], [b, 1]));
export const sub = lift((a, b) => result(plain(a) - plain(b), [a, 1], [b, -1]));
export const mul = lift((a, b) => result(plain(a) * plain(b), [a, plain(b)], [b, plain(a)]));
export const div = lift((a, b) => result(plain(a) / plain(b), [a, 1 / plain(b)], [b, -plain(a) / plain(b) ** 2]));
export const neg = unary(
  (x) => -x,
  () => -1,
);
export const exp = unary(Math.exp, Math.exp);
export const square = unary(
  (x) => x * x,
  (x) => 2 * x,
);
export const relu = unary(
  (x) => Math.max(x, 0),
  (x) => (x > 0 ? 1 : 0),
);
export const sigmoid = unary(logistic, (x) => logistic(x) * logistic(-x));
export const log_sigmoid = unary(
  (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x))),
  (x) => logistic(-x),
);

/** log(1 - exp(x)) of x below 0. */
export const log1m_exp = unary(
  (x) => Math.log(-Math.expm1(x)),
  (x) => -1 / Math.expm1(-x),
);

function logistic(x) {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

/** The smaller; of two equals the first, with the whole gradient. */
export const minimum = lift((a, b) => (plain(b) < plain(a) ? b : a));

/** x between low and high; outside it has no slope. */
export const clip = lift((x, low, high) => (plain(x) < low ? low : plain(x) > high ? high : x));

/** a where the condition holds, else b: what is not chosen reaches neither value nor gradient. */
export const where = lift((condition, a, b) => (condition ? a : b));

export const BOUND = 20; // nats; exp(20) = 4.9e8

/** exp(x), and above 20 its tangent: finite, and its slope is never 0. */
export const bounded_exp = unary(
  (x) => Math.exp(Math.min(x, BOUND)) + Math.exp(BOUND) * Math.max(x - BOUND, 0),
  (x) => Math.exp(Math.min(x, BOUND)),
);
export const bounded_expm1 = unary(
  (x) => Math.expm1(Math.min(x, BOUND)) + Math.exp(BOUND) * Math.max(x - BOUND, 0),
  (x) => Math.exp(Math.min(x, BOUND)),
);

/** log(exp(a) + exp(b)). */
export const log_add_exp = lift((a, b) => {
  const high = Math.max(plain(a), plain(b));
  if (high === -Infinity) return -Infinity;
  const value = high + Math.log(Math.exp(plain(a) - high) + Math.exp(plain(b) - high));
  return result(value, [a, Math.exp(plain(a) - value)], [b, Math.exp(plain(b) - value)]);
});

/** log softmax(z / temperature) of one position's logits. */
export function log_softmax(z, temperature) {
  const x = z.map((v) => plain(v) / temperature);
  const high = Math.max(...x);
  const total = high + Math.log(x.reduce((sum, v) => sum + Math.exp(v - high), 0));
  const p = x.map((v) => Math.exp(v - total));
  return x.map((v, i) => result(v - total, ...z.map((other, j) => [other, ((i === j) - p[j]) / temperature])));
}

/** The sum of all numbers of a tensor. */
export function sum(x) {
  const xs = [x].flat(Infinity);
  return result(
    xs.reduce((total, v) => total + plain(v), 0),
    ...xs.map((v) => [v, 1]),
  );
}

/** f(inputs), and the gradient of the sum of all its numbers by each of the inputs that are named. */
export function differentiate(f, inputs, names) {
  const leaves = Object.fromEntries(names.map((name) => [name, lift((x) => new Node(x, []))(inputs[name])]));
  const value = f({ ...inputs, ...leaves });
  backward(sum(value));
  return { value: sg(value), gradients: Object.fromEntries(names.map((k) => [k, lift((x) => x.slope)(leaves[k])])) };
}

function backward(end) {
  if (!(end instanceof Node)) return;
  const found = new Set([end]);
  for (const node of found) for (const [parent] of node.parents) found.add(parent);
  end.slope = 1;
  for (const node of [...found].sort((a, b) => b.id - a.id)) {
    for (const [parent, slope] of node.parents) parent.slope += node.slope * slope;
  }
}
