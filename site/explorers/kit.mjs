// What all explorers share: state in the address, controls, drags, drawing, the lines of equations and code.
//
// An explorer is { name, title, lede, state, render }. render(state, { width }) gives the page's HTML as text, so the
// build can write the first picture into the page; mount() draws it anew whenever the state changes.

// ------------------------------------------------------------------------------------------------------------- writing

/** Markup as text; of a list all parts, of false, null and undefined nothing. */
export const html = (strings, ...values) => strings.reduce((text, part, i) => text + written(values[i - 1]) + part);
const written = (x) => (Array.isArray(x) ? x.map(written).join("") : x === false || x == null ? "" : String(x));

/** A number as a person reads it: a true minus, no "-0". */
export function show(x, digits = 2) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x > 0 ? "∞" : "−∞";
  const large = Math.abs(x) >= 10000;
  const text = large ? x.toExponential(1).replace("e+", "e") : x.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A number of the moment, in the colour of what it is. */
export const num = (x, colour = "", digits = 2) => html`<b class="num ${colour}">${show(x, digits)}</b>`;

/** A number that follows an operator: in parentheses where it is negative. */
export const par = (x, colour = "", digits = 2) =>
  x < 0 && Number(x.toFixed(digits)) !== 0 ? html`(${num(x, colour, digits)})` : num(x, colour, digits);

/** A symbol of an equation. */
export const sym = (text, sub = "") => html`<i>${text}</i>${sub && html`<sub>${sub}</sub>`}`;

// --------------------------------------------------------------------------------------------------------------- state

export const number = (initial, min, max, step) => ({
  initial,
  min,
  max,
  step,
  read: (text) => {
    const x = Number(text);
    return text.trim() !== "" && x >= min && x <= max ? x : initial;
  },
  write: (x) => String(x),
});
export const choice = (initial, options) => ({
  initial,
  options,
  read: (text) => (options.includes(text) ? text : initial),
  write: String,
});
/** Words that the reader types. */
export const words = (most) => ({ initial: "", read: (text) => text.slice(0, most), write: String });
/** A list of numbers between two bounds, of a given length (or between two lengths). */
export const numbers = (initial, min, max, step, [least, most] = [initial.length, initial.length]) => ({
  initial,
  min,
  max,
  step,
  read: (text) => {
    const xs = text.split(",").map((x) => (x.trim() === "" ? NaN : Number(x)));
    const fits = xs.length >= least && xs.length <= most && xs.every((x) => x >= min && x <= max);
    return fits ? xs : initial;
  },
  write: (xs) => xs.join(","),
});

/** The state that an address tells; what is missing or nonsense in it is as at first. */
export function read(fields, hash) {
  const told = new URLSearchParams(hash.replace(/^#/, ""));
  return Object.fromEntries(
    Object.entries(fields).map(([key, field]) => [key, told.has(key) ? field.read(told.get(key)) : field.initial]),
  );
}

/** The address of a state: what differs from the first one. */
export function address(fields, state) {
  const changed = Object.entries(fields).filter(([key, f]) => f.write(state[key]) !== f.write(f.initial));
  return changed
    .map(([key, field]) => `${key}=${encodeURIComponent(field.write(state[key])).replaceAll("%2C", ",")}`)
    .join("&");
}

// ------------------------------------------------------------------------------------------------------------ controls

const attribute = (text) => escaped(text).replaceAll('"', "&quot;");

/** Text as markup that shows it. */
export const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** A native slider with its number; `said` is what a screen reader says of it. */
export const slider = (key, { min, max, step }, value, label, { digits = 2, said, colour = "", at } = {}) => html`
  <label class="slider ${colour}"><span>${label}</span><output>${show(value, digits)}</output>
    <input type="range" data-key="${key}" ${at !== undefined && `data-at="${at}"`} min="${min}" max="${max}"
      step="${step}" value="${value}" aria-valuetext="${attribute(said ?? show(value, digits))}"></label>`;

/** One of a few, as buttons in a row. Options: [value, label]. */
export const options = (key, value, label, list) => html`
  <fieldset class="options"><legend>${label}</legend><div>
    ${list.map(
      ([option, text]) => html`<label><input type="radio" name="${key}" data-key="${key}" value="${option}"
      ${option === value && "checked"}><span>${text}</span></label>`,
    )}</div></fieldset>`;

/** One of many, by name. */
export const select = (key, value, label, list) => html`
  <label class="select"><span>${label}</span><select data-key="${key}" data-value="${attribute(value)}">${list.map(
    (name) => html`<option value="${attribute(name)}" ${name === value && "selected"}>${name}</option>`,
  )}</select></label>`;

/** Words to look for. */
export const search = (key, value, label, hint) => html`
  <label class="select"><span>${label}</span><input type="search" data-key="${key}" value="${attribute(value)}" placeholder="${attribute(hint)}"></label>`;

/** A button that sets parts of the state. */
export const button = (set, text, { pressed, label, kind = "" } = {}) => html`
  <button type="button" class="${kind}" data-set="${attribute(JSON.stringify(set))}"
    ${pressed !== undefined && `aria-pressed="${pressed}"`} ${label && `aria-label="${attribute(label)}"`}>${text}</button>`;

/** The question that a page begins with. A guess sets `scene`, so that the picture below shows the answer. */
export const predict = (guess, question, answers, right, because, scene) => html`
  <section class="predict" aria-label="Predict first"><p class="kicker">Predict</p><p class="question">${question}</p>
    <div class="answers">${answers.map((text, i) =>
      button({ guess: String(i), ...scene }, text, {
        pressed: guess === String(i),
        kind: guess === "" ? "" : i === right ? "right" : guess === String(i) ? "wrong" : "",
      }),
    )}</div>
    <div role="status">${
      guess !== "" &&
      html`<p class="because"><strong>${
        Number(guess) === right ? "Yes." : "No."
      }</strong> ${because} <span class="hint">The picture shows it: drag on from there.</span></p>`
    }</div>
  </section>`;
export const guessed = (n) => choice("", ["", ...Array.from({ length: n }, (_, i) => String(i))]);

const linked = (tags) => tags.replaceAll(/[A-Z]+\.\d+/g, (tag) => `<a href="../equations.html#eq-${tag}">${tag}</a>`);

/** An equation with the numbers of the moment in it: its tags, which lead on, and its lines. */
export const equation = (tags, ...lines) => html`
  <section class="equation" aria-label="The equation, with these numbers"><p class="kicker">${linked(tags)}</p>
    ${lines.filter(Boolean).map((line) => html`<p class="line">${line}</p>`)}</section>`;

/** Lines of the library's code, where the equation stands; each is { file, line, text, href }, found by the build. */
export const code = (...lines) => html`
  <section class="code" aria-label="The line of code"><p class="kicker">In the code</p>
    ${lines.map(({ file, line, text, href }) => html`<a href="${href}"><code>${escaped(text)}</code><span>${file}:${line}</span></a>`)}</section>`;

// ------------------------------------------------------------------------------------------------------------- drawing

/** The width of a picture beside the controls, or above them on a narrow page. */
export const room = (width) => (width > 788 ? width - 354 : width - 38);

/** The picture, and its controls beside or below it. */
export const stage = (drawn, ...controls) => html`
  <div class="stage"><div class="panel">${drawn}</div><div class="controls panel">${controls}</div></div>`;

export const note = (...text) => html`<p class="note">${text}</p>`;

/** A chart's frame: where a value stands, in pixels. */
export function frame({ width, height, x, y, left = 46, right = 14, top = 12, bottom = 30 }) {
  const at =
    ([from, to], [start, end]) =>
    (v) =>
      start + ((v - from) / (to - from)) * (end - start);
  return {
    width,
    height,
    x,
    y,
    left,
    right: width - right,
    top,
    bottom: height - bottom,
    X: at(x, [left, width - right]),
    Y: at(y, [height - bottom, top]),
  };
}

export const axes = (f, { xticks = [], yticks = [], xlabel = "", ylabel = "", digits = 1, xdigits = 0 }) => html`
  <g class="axes" aria-hidden="true">
    ${yticks.map(
      (v) => html`<line x1="${f.left}" x2="${f.right}" y1="${f.Y(v)}" y2="${f.Y(v)}"
      class="${v === 0 ? "zero" : "grid"}"/><text x="${f.left - 7}" y="${f.Y(v) + 4}" text-anchor="end">${show(v, digits)}</text>`,
    )}
    ${xticks.map((v) => html`<text x="${f.X(v)}" y="${f.bottom + 17}" text-anchor="middle">${show(v, xdigits)}</text>`)}
    ${xlabel && html`<text class="name" x="${f.right - (f.right - f.left) / 8}" y="${f.bottom + 17}" text-anchor="middle">${xlabel}</text>`}
    ${ylabel && html`<text class="name" x="${f.left}" y="${f.top - 8}">${ylabel}</text>`}</g>`;

/** What is drawn inside a frame, cut off at its edges. */
export const inside = (f, ...parts) => html`<svg x="${f.left}" y="${f.top}" width="${f.right - f.left}"
  height="${f.bottom - f.top}" viewBox="${f.left} ${f.top} ${f.right - f.left} ${f.bottom - f.top}">${parts}</svg>`;

/** A line through points [x, y]; where `jump` is given, a step in y larger than it breaks the line. */
export function path(f, points, kind, jump = Infinity) {
  const far = (y) => Math.max(-4000, Math.min(4000, y));
  const steps = points.map(([x, y], i) => {
    const broken = i === 0 || Math.abs(y - points[i - 1][1]) > jump || !Number.isFinite(y);
    return `${broken ? "M" : "L"}${f.X(x).toFixed(1)} ${far(f.Y(y)).toFixed(1)}`;
  });
  return html`<path class="${kind}" d="${steps.join("")}"/>`;
}

/** A coordinate, to a tenth of a pixel. */
const near = (x) => Number(x.toFixed(1));

/** A bar from 0 to v. */
export const bar = (
  f,
  x,
  v,
  width,
  kind,
) => html`<rect class="${kind}" x="${near(f.X(x) - width / 2)}" width="${near(width)}"
  y="${near(Math.min(f.Y(0), f.Y(v)))}" height="${near(Math.max(Math.abs(f.Y(v) - f.Y(0)), 0.5))}" rx="2"/>`;

/** Many small bars [x, v] as one shape. */
export const bars = (f, values, width, kind) =>
  html`<path class="${kind}" d="${values
    .map(([x, v]) => `M${near(f.X(x) - width / 2)} ${near(f.Y(0))}h${near(width)}V${near(f.Y(v))}h${-near(width)}z`)
    .join("")}"/>`;

/**
 * A point that is dragged, or moved by keys. `along` is "x" or "y" of the frame; the value goes into state[key], or
 * into its entry `at`: there explorer.adjust(state, key, at, value) may say what else changes with it.
 */
export const handle = (
  f,
  key,
  { at, along, min, max, step, value, x, y, label, said, colour = "", reach = 20 },
) => html`
  <g class="handle ${colour} ${along}" tabindex="0" role="slider" aria-label="${attribute(label)}" transform="translate(${near(x)} ${near(y)})" aria-valuemin="${min}"
    aria-valuemax="${max}" aria-valuenow="${value}" aria-valuetext="${attribute(said)}" data-key="${key}"
    ${at !== undefined && `data-at="${at}"`} data-drag="${[
      along,
      min,
      max,
      step,
      ...(along === "x" ? [...f.x, f.left, f.right] : [...f.y, f.bottom, f.top]),
    ].join()}"><circle class="reach" r="${reach}"/><circle class="ring" r="12"/><circle class="knob" r="7"/></g>`;

/** A part of a picture that is pressed, and sets parts of the state. */
export const press = (set, label, pressed, ...drawn) => html`<g class="press" tabindex="0" role="button"
  aria-label="${attribute(label)}" ${pressed !== undefined && `aria-pressed="${pressed}"`}
  data-set="${attribute(JSON.stringify(set))}">${drawn}</g>`;

export const picture = (width, height, label, ...parts) => html`<svg class="picture" width="${width}" height="${height}"
  viewBox="0 0 ${width} ${height}" role="group" aria-label="${attribute(label)}">${parts}</svg>`;

// ------------------------------------------------------------------------------------------------------- in the browser

/** Make an element as another one is, keeping what has the focus or is being dragged. */
function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return undefined;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return undefined;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.nodeName === "SELECT") queueMicrotask(() => (old.value = fresh.getAttribute("data-value")));
  if (old.nodeName === "INPUT") {
    old.value = fresh.getAttribute("value");
    old.checked = fresh.hasAttribute("checked");
  }
  const [had, has] = [[...old.childNodes], [...fresh.childNodes]];
  had.slice(has.length).forEach((child) => child.remove());
  has.forEach((child, i) => (i < had.length ? patch(had[i], child) : old.append(child)));
  return undefined;
}

/** What a handle's data-drag says. */
function dragged({ dataset: { drag } }) {
  const [along, ...xs] = drag.split(",");
  const [min, max, step, ...ends] = xs.map(Number);
  return { along, min, max, step, from: ends.slice(0, 2), pixels: ends.slice(2) };
}

export function mount(explorer) {
  const root = document.querySelector("main");
  let state = read(explorer.state, location.hash);
  let told = address(explorer.state, state);
  let timer = 0;
  let frameAsked = 0;

  const draw = () => {
    const fresh = root.cloneNode(false);
    fresh.innerHTML = explorer.render(state, { width: Math.min(Math.max(root.clientWidth, 280), 1080) });
    patch(root, fresh);
  };
  const tell = () => {
    told = address(explorer.state, state);
    history.replaceState(null, "", told ? `#${told}` : location.pathname + location.search);
  };
  const set = (changes) => {
    state = { ...state, ...changes };
    cancelAnimationFrame(frameAsked);
    frameAsked = requestAnimationFrame(draw);
    clearTimeout(timer);
    timer = setTimeout(tell, 150);
  };
  const replaced = (key, at, value) => state[key].map((x, i) => (i === at ? value : x));
  const change = ({ dataset: { key, at } }, value) =>
    set(
      at === undefined
        ? { [key]: value }
        : (explorer.adjust?.(state, key, Number(at), value) ?? { [key]: replaced(key, Number(at), value) }),
    );
  const rounded = (x, { min, max, step }) => {
    const steps = Math.round((Math.max(min, Math.min(max, x)) - min) / step);
    return Number((min + steps * step).toFixed(6));
  };

  root.addEventListener("input", ({ target }) => {
    if (target.dataset.key) change(target, target.type === "range" ? Number(target.value) : target.value);
  });
  root.addEventListener("click", ({ target }) => {
    const pressed = target.closest("[data-set]");
    if (pressed) set(JSON.parse(pressed.dataset.set));
  });
  root.addEventListener("keydown", (event) => {
    const on = event.target.closest("[data-set]:not(button), [data-drag]");
    if (!on) return;
    if (on.dataset.set && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      set(JSON.parse(on.dataset.set));
    }
    if (!on.dataset.drag) return;
    const drag = dragged(on);
    const now = Number(on.getAttribute("aria-valuenow"));
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    const to = { Home: drag.min, End: drag.max }[event.key] ?? (by && now + by * drag.step);
    if (to === undefined) return;
    event.preventDefault();
    change(on, rounded(to, drag));
  });
  root.addEventListener("pointerdown", (event) => {
    const on = event.target.closest("[data-drag]");
    if (!on) return;
    event.preventDefault();
    on.focus();
    on.setPointerCapture(event.pointerId);
    const drag = dragged(on);
    const move = ({ clientX, clientY }) => {
      const point = new DOMPoint(clientX, clientY).matrixTransform(on.ownerSVGElement.getScreenCTM().inverse());
      const share = (point[drag.along] - drag.pixels[0]) / (drag.pixels[1] - drag.pixels[0]);
      change(on, rounded(drag.from[0] + share * (drag.from[1] - drag.from[0]), drag));
    };
    const end = () => {
      on.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) on.removeEventListener(name, end);
    };
    on.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) on.addEventListener(name, end);
    move(event);
  });
  addEventListener("hashchange", () => {
    if (location.hash.replace(/^#/, "") === told) return;
    state = read(explorer.state, location.hash);
    draw();
  });
  new ResizeObserver(draw).observe(root);
  draw();
}
