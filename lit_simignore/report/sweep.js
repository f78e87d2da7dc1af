"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const marks = all("[data-r]");

  /* A row, its point and its line light up together. */
  const light = (number, on) => {
    for (const mark of marks) if (mark.dataset.r === number) mark.classList.toggle("hot", on);
    document.querySelector(".coords svg")?.classList.toggle("warm", on);
  };
  for (const mark of marks) {
    mark.addEventListener("pointerenter", () => light(mark.dataset.r, true));
    mark.addEventListener("pointerleave", () => light(mark.dataset.r, false));
  }

  /* Parallel coordinates: a range drawn along an axis leaves only the lines that pass through it. */
  const svg = document.querySelector(".coords svg");
  if (!svg) return;
  const lines = all(".line", svg).map((line) => ({ number: line.dataset.r, ys: line.dataset.y.split(" ").map(Number.parseFloat) }));
  const known = new Set(lines.map((line) => line.number));
  const ranges = new Map();
  const status = document.getElementById("picked");
  const clear = document.getElementById("unpick");

  const pick = () => {
    const inside = (line) => [...ranges].every(([axis, [low, high]]) => line.ys[axis] >= low && line.ys[axis] <= high);
    const chosen = new Set(lines.filter(inside).map((line) => line.number));
    for (const mark of marks) mark.classList.toggle("out", known.has(mark.dataset.r) && !chosen.has(mark.dataset.r));
    status.textContent = ranges.size ? `${chosen.size} of ${lines.length} lines` : "";
    clear.hidden = ranges.size === 0;
  };
  const height = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return point.y;
  };
  const strips = all(".brush", svg);
  const let_go = (strip) => {
    ranges.delete(strip.dataset.axis);
    strip.shown?.remove();
    strip.shown = null;
  };
  for (const strip of strips) {
    let from = null;
    strip.addEventListener("pointerdown", (event) => {
      let_go(strip);
      from = height(event);
      strip.setPointerCapture(event.pointerId);
      strip.shown = document.createElementNS(svg.namespaceURI, "rect");
      strip.shown.setAttribute("class", "picked-range");
      strip.shown.setAttribute("x", strip.getAttribute("x"));
      strip.shown.setAttribute("width", strip.getAttribute("width"));
      strip.before(strip.shown);
      event.preventDefault();
    });
    strip.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = height(event);
      const [low, high] = [Math.min(from, to), Math.max(from, to)];
      strip.shown.setAttribute("y", low);
      strip.shown.setAttribute("height", high - low);
      if (high - low >= 3) ranges.set(strip.dataset.axis, [low, high]);
      else ranges.delete(strip.dataset.axis);
      pick();
    });
    const stop = () => {
      from = null;
      if (!ranges.has(strip.dataset.axis)) let_go(strip);
      pick();
    };
    strip.addEventListener("pointerup", stop);
    strip.addEventListener("pointercancel", stop);
  }
  clear.addEventListener("click", () => {
    strips.forEach(let_go);
    pick();
  });
})();
