"use strict";
(() => {
  const PER_PAGE = 8;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  /* Tables: a click on a heading sorts by that column's numbers, a second click the other way round. */
  for (const table of all("table")) {
    const body = table.tBodies[0];
    all("thead th", table).forEach((head, column) => {
      const value = (row) => Number.parseFloat(row.cells[column].dataset.v ?? "NaN");
      if (![...body.rows].some((row) => Number.isFinite(value(row)))) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => (Number.isFinite(value(row)) ? (down ? -value(row) : value(row)) : Infinity);
        body.append(...[...body.rows].sort((a, b) => key(a) - key(b) || 0));
      });
    });
  }

  /* Maps: one slider moves all of them from layer to layer. */
  const slider = byId("layer");
  if (slider) {
    const names = all("#layer-names i").map((name) => name.textContent);
    const move = () => {
      for (const heat of all("svg.heat")) {
        const { rows, cols } = heat.dataset;
        heat.setAttribute("viewBox", `0 ${slider.value * rows} ${cols} ${rows}`);
      }
      for (const line of all(".at-layer")) line.hidden = line.dataset.at !== slider.value;
      byId("layer-name").textContent = names[slider.value];
      slider.setAttribute("aria-valuetext", `layer ${names[slider.value]}`);
    };
    slider.form.addEventListener("submit", (event) => event.preventDefault());
    slider.addEventListener("input", move);
    move();
  }

  const form = document.querySelector("form.controls");
  if (!form) return;
  const cards = all(".card").map((card) => ({ card, kind: card.dataset.k, tiles: all(".tile", card) }));
  const matches = {
    all: () => true,
    flipped: (tile) => "flip" in tile.dataset,
    fixed: (tile) => tile.dataset.flip === "fixed",
    broken: (tile) => tile.dataset.flip === "broken",
    wrong: (tile) => tile.dataset.state === "wrong",
    error: (tile) => tile.dataset.state === "error",
  };
  let page = 0;

  const draw = () => {
    const wanted = new FormData(form).get("filter") ?? "all";
    const kind = byId("kind")?.value ?? "";
    const shown = new Set(all(".methods input:checked", form).map((box) => box.value));
    document.body.classList.toggle("plain", !byId("overlay").checked);
    document.body.classList.toggle("large", byId("large").checked);
    for (const { tiles } of cards) for (const tile of tiles) tile.hidden = !shown.has(tile.dataset.m);
    const ofKind = cards.filter((entry) => kind === "" || entry.kind === kind);
    const having = (name) => ofKind.filter(({ tiles }) => name === "all" || tiles.some((t) => !t.hidden && matches[name](t)));
    for (const count of all("[data-count]", form)) count.textContent = having(count.dataset.count).length;

    const found = having(wanted);
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const visible = new Set(found.slice(page * PER_PAGE, (page + 1) * PER_PAGE));
    for (const entry of cards) entry.card.hidden = !visible.has(entry);
    byId("found").textContent = found.length ? "" : "no sample like that among the ones kept";
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("earlier").disabled = page === 0;
    byId("later").disabled = page >= pages - 1;
  };

  const turn = (step) => {
    page += step;
    draw();
    byId("samples").scrollIntoView();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    page = 0;
    draw();
  });
  byId("earlier").addEventListener("click", () => turn(-1));
  byId("later").addEventListener("click", () => turn(1));
  draw();
})();
