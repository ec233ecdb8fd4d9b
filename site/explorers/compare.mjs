// What differs between two recipes of one kind, in the order of data flow. As torchstone.recipes.table.differences.

/** [{ at, values, effects }]: of a choice, or of a number of it; effects are one that holds for both, or one each. */
export function differences(a, b) {
  return Object.keys(a.choices).flatMap((at) => {
    const [[one, told_a, effect_a, numbers_a], [two, told_b, effect_b, numbers_b]] = [a.choices[at], b.choices[at]];
    if (at === "anchor" && told_a === "none" && told_b === "none") return []; // neither looks at the policy before
    if (one !== two) return [{ at, values: [told_a, told_b], effects: [effect_a, effect_b] }];
    return Object.keys(numbers_a).flatMap((k) => {
      const [[x, effect_x, own_x = x], [y, effect_y, own_y = y]] = [numbers_a[k], numbers_b[k]];
      return own_x === own_y ? [] : [{ at: `${at}.${k}`, values: [x, y], effects: [...new Set([effect_x, effect_y])] }];
    });
  });
}

/** The rows of site/table.py --all, each with its choices in full. */
export const spelled = ({ choices, rows }) =>
  rows.map((row) => ({
    ...row,
    choices: Object.fromEntries(Object.entries(row.choices).map(([at, i]) => [at, choices[i]])),
  }));
