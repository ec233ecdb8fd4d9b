// A page with a long table gets a box that filters rows by words. Without scripts they are whole, as they are.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("article table")].filter(
    (table) => table.querySelectorAll("tbody tr").length > 3,
  );
  const rows = tables.flatMap((table) => [...table.querySelectorAll("tbody tr")]);
  const longest = Math.max(0, ...tables.map((table) => table.querySelectorAll("tbody tr").length));
  if (rows.length < 40 || longest < 15) return;
  const box = document.createElement("label");
  box.className = "table-filter";
  box.innerHTML = `<span>Rows with</span><input type="search" placeholder="these words"><output>${rows.length} rows</output>`;
  document.querySelector("article h1").after(box);
  box.querySelector("input").addEventListener("input", ({ target }) => {
    const asked = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !asked.every((word) => row.textContent.toLowerCase().includes(word));
    for (const table of tables) table.hidden = asked.length > 0 && !table.querySelector("tbody tr:not([hidden])");
    box.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  });
});
