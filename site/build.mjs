// The explorers' pages: each one file, with its mathematics, style and first picture in it. node site/build.mjs OUT

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, transformSync } from "esbuild";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ROOT = join(HERE, "..");
const OUT = process.argv[2] ?? join(ROOT, "build/site");
const ORDER = ["ratio", "kl", "gae", "groups", "reductions", "pairs", "batch"];
const LIMIT = 80_000; // bytes of a page

// ------------------------------------------------------------------------------------------------------- lines of code

/**
 * import x from "code:FILE?TEXT": the line of that file which holds the text; of "code:FILE#NAME?TEXT" the one in that
 * function. It must be one line, or the build fails.
 */
const lines_of_code = {
  name: "lines of code",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^code:/ }, ({ path }) => ({ path: path.slice(5), namespace: "code" }));
    onLoad({ filter: /.*/, namespace: "code" }, ({ path }) => {
      const [where, text] = [path.slice(0, path.indexOf("?")), path.slice(path.indexOf("?") + 1)];
      const [file, name] = where.split("#");
      const lines = readFileSync(join(ROOT, file), "utf8").split("\n");
      const start = name ? lines.findIndex((line) => line.startsWith(`def ${name}(`)) : 0;
      const end = lines.findIndex((line, i) => name && i > start && /^(def|class|@)/.test(line));
      const inside = (i) => start >= 0 && i >= start && (end < 0 || i < end);
      const whole = lines.flatMap((line, i) => (inside(i) && line.trim() === text ? [i] : []));
      const found = whole.length ? whole : lines.flatMap((line, i) => (inside(i) && line.includes(text) ? [i] : []));
      if (found.length !== 1)
        return { errors: [{ text: `${where}: expected one line with ${text}, found ${found.length}` }] };
      const [at] = found;
      const data = { file, line: at + 1, text: lines[at].trim(), href: `../code/${file}.html#L${at + 1}` };
      return { contents: `export default ${JSON.stringify(data)}`, loader: "js" };
    });
  },
};

async function bundle(contents, format) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: HERE },
    bundle: true,
    write: false,
    format,
    charset: "utf8",
    target: "es2022",
    minify: true,
    plugins: [lines_of_code],
    logLevel: "warning",
    legalComments: "none",
  });
  return outputFiles[0].text;
}

// --------------------------------------------------------------------------------------------------------------- pages

const style = (name) =>
  transformSync(readFileSync(join(HERE, `explorers/${name}.css`), "utf8"), {
    loader: "css",
    minify: true,
    charset: "utf8",
  }).code;
const css = style("kit");
/** Light, dark or as the system: what the reader chose on any page of the site, also when it is chosen while this is open. */
const theme = transformSync(readFileSync(join(HERE, "explorers/theme.js"), "utf8"), { minify: true }).code.trim();

const page = (title, about, nav, body, script = "") => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · Torchstone</title><meta name="description" content="${about}">
<link rel="icon" href="data:,"><style>${css}</style></head>
<body><script>${theme}</script><header class="top">${nav}</header><div class="page"><h1>${title}</h1><p class="lede">${about}</p>
${body}</div>${script && `<script>${script.replaceAll("</script", "<\\/script")}</script>`}</body></html>
`;

function write(path, text) {
  mkdirSync(dirname(join(OUT, path)), { recursive: true });
  writeFileSync(join(OUT, path), text);
  return text.length;
}

/** An explorer, to draw with here; and its script, to move it in a page. */
async function drawn_by(name) {
  const drawn = await bundle(`export { default } from "./explorers/${name}.mjs"`, "esm");
  return import(`data:text/javascript;base64,${Buffer.from(drawn).toString("base64")}`);
}
const mounted = (name) =>
  bundle(
    `import { mount } from "./explorers/kit.mjs"; import explorer from "./explorers/${name}.mjs"; mount(explorer);`,
    "iife",
  );

const present = new Set(readdirSync(join(HERE, "explorers")));
const names = ORDER.filter((name) => present.has(`${name}.mjs`));
const explorers = [];
for (const name of names) {
  explorers.push((await drawn_by(name)).default);
}
const links = (current) =>
  [
    `<a class="home" href="../index.html">Torchstone</a><a href="index.html">Explorers</a>`,
    ...explorers.map(
      ({ name, title }) => `<a href="${name}.html"${name === current ? ' aria-current="page"' : ""}>${title}</a>`,
    ),
    `<a href="recipes.html">Recipes compared</a>`,
  ].join("");
const first = (explorer) =>
  Object.fromEntries(Object.entries(explorer.state).map(([key, field]) => [key, field.initial]));
/** The page as it is first seen, without what only a script needs. */
const still = (explorer, width) =>
  explorer
    .render(first(explorer), { width, still: true })
    .replaceAll(/<circle class="(reach|ring)"[^>]*>(<\/circle>)?/g, "")
    .replaceAll(/<(g|button) [^>]*>/g, (tag) => tag.replaceAll(/ (tabindex|role|type|aria-[a-z]+)="[^"]*"/g, ""))
    .replaceAll(/ (data-[a-z]+|class="")(="[^"]*")?/g, "")
    .replaceAll(/ (x|y|[xy][12]|c[xy]|width|height|d|transform|viewBox)="[^"]*"/g, (places) =>
      places.replaceAll(/(\.\d)\d+/g, "$1"),
    )
    .replaceAll(
      /<g class="handle (\w+) \w"( transform="[^"]*") *><circle class="knob" r="7"\/><\/g>/g,
      '<circle class="knob $1"$2 r="7"/>',
    )
    .replaceAll(/\s+/g, " ")
    .replaceAll(/> <(?!\/?(b|i|small|sub|sup|code|strong|tspan)\b)/g, "><");
const NOSCRIPT =
  "<noscript><style>.controls, .answers { display: none !important; }</style><p>This page moves by a script, and scripts are off here. What follows is its first picture, as it stands when the page opens.</p></noscript>";

for (const explorer of explorers) {
  const { name, title, lede } = explorer;
  const script = await mounted(name);
  const body = `${NOSCRIPT}<main style="--accent:var(--${explorer.hue})">${still(explorer, 1080)}</main>`;
  const text = page(title, lede, links(name), body, script);
  const size = Buffer.byteLength(text);
  write(`explorers/${name}.html`, text);
  console.log(`explorers/${name}.html ${(size / 1000).toFixed(1)} kB`);
  if (size > LIMIT) throw new Error(`explorers/${name}.html: expected at most ${LIMIT} bytes, got ${size}`);
}

// The table of recipes: as large as its rows are many.
const { default: table } = await drawn_by("table");
const script = await mounted("table");
const recipes = page(
  table.title,
  table.lede,
  links(""),
  `${NOSCRIPT}<main style="--accent:var(--${table.hue})">${still(table, 1080)}</main>`,
  script,
);
console.log(
  `explorers/recipes.html ${(write("explorers/recipes.html", recipes.replace("</style>", `${style("table")}</style>`)) / 1000).toFixed(1)} kB`,
);

/** The picture of a page, for its card: shown, not moved. */
const card = (explorer) => {
  const [svg] = /<svg class="picture"[\s\S]*?<\/svg>(?=\s*<\/div>)/.exec(still(explorer, 640));
  return svg.replaceAll(/ (tabindex|role|aria-[a-z]+)="[^"]*"/g, "").replace("<svg", '<svg aria-hidden="true"');
};
for (const explorer of explorers) {
  // and as an image of its own, on a card that suits light and dark
  const [svg] = /<svg class="picture"[\s\S]*?<\/svg>(?=\s*<\/div>)/.exec(still(explorer, 600));
  const [, width, height] = /width="([\d.]+)" height="([\d.]+)"/.exec(svg);
  const body = svg.replaceAll(/ (tabindex|role|aria-[a-z]+)="[^"]*"/g, "");
  write(
    `explorers/${explorer.name}.svg`,
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 -12 ${Number(width) + 32} ${Number(height) + 24}"><style>${css}</style>` +
      `<rect x="-16" y="-12" width="100%" height="100%" rx="10" fill="var(--card)"/>${body}</svg>`,
  );
}
const cards = explorers.map(
  (explorer) =>
    `<li><a href="${explorer.name}.html"><h2>${explorer.title}</h2><p>${explorer.lede}</p>${card(explorer)}</a></li>`,
);
write(
  "explorers/index.html",
  page(
    "Explorers",
    "Drag a number, and see what the equation makes of it. Each page begins with a question: guess first.",
    links(""),
    `<main><ul class="cards">${cards.join("")}</ul></main>`,
  ),
);
