"use strict";
(() => {
  const SLIDER_MS = 60, TYPING_MS = 350;
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = byId("wish");
  let newest = null; // AbortController of the question that counts; older ones are given up
  let timer = 0;
  let suggestion = null; // the example question in the box, as long as nobody edits it

  const complain = (text) => {
    byId("problem").textContent = text;
    byId("problem").hidden = !text;
  };
  const say = (text) => { byId("status").textContent = text; };
  document.documentElement.classList.add("scripted");
  const busy = (on) => {
    byId("result").setAttribute("aria-busy", String(on));
    byId("stop").disabled = !on;
  };

  /* Talking to the server */
  const post = async (path, body, kind, signal) => {
    let response, answer;
    try {
      response = await fetch(path, { method: "POST", body, signal, headers: { "Content-Type": kind } });
      answer = await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    if (!response.ok) throw new Error(answer.error);
    return answer;
  };

  const chosen = (key) => byId(key)?.selectedOptions[0];
  const counted = () => "counted" in (chosen("prune")?.dataset ?? {});
  const count = () => {
    const text = byId("num_keep").value;
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const wish = () => ({
    image: form.elements.image.value,
    question: byId("question").value,
    options: byId("options").value,
    prune: byId("prune").value,
    num_keep: counted() ? count() : null,
    prune_settings: byId("prune-settings").value,
    heads: byId("heads")?.value ?? "",
    heads_settings: byId("heads-settings")?.value ?? "",
    flow: byId("flow").value,
  });

  const ask = async () => {
    clearTimeout(timer);
    newest?.abort();
    const mine = new AbortController();
    newest = mine;
    const answer = suggestion?.answer;
    busy(true);
    say("Answering …");
    try {
      const found = await post("/ask", JSON.stringify(wish()), "application/json", mine.signal);
      if (mine !== newest) return;
      byId("result").innerHTML = found.result; // made of escaped pieces; the policy of the page runs no script in it
      byId("result").classList.remove("stale");
      move();
      byId("total").textContent = found.num_visual;
      byId("slider").max = found.num_visual;
      complain("");
      say(`Answered with ${found.method}.${answer ? ` The right answer is: ${answer}` : ""}`);
    } catch (error) {
      if (mine !== newest) return;
      byId("result").classList.add("stale");
      complain(error.name === "AbortError" ? "" : error.message);
      say(error.name === "AbortError" ? "Stopped." : "Not answered.");
    }
    busy(false);
    newest = null;
  };
  const soon = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(ask, milliseconds);
  };

  /* Flow: one slider moves all maps; it stays where it was put when another answer comes. */
  let layer = null;
  const move = () => {
    const slider = byId("layer");
    if (!slider) return;
    if (layer !== null) slider.value = layer;
    for (const heat of all("svg.heat")) {
      const { rows, cols } = heat.dataset;
      heat.setAttribute("viewBox", `0 ${slider.value * rows} ${cols} ${rows}`);
    }
    for (const line of all(".at-layer")) line.hidden = line.dataset.at !== slider.value;
    byId("layer-name").textContent = slider.value;
    slider.setAttribute("aria-valuetext", `layer ${slider.value}`);
  };
  byId("result").addEventListener("input", (event) => {
    if (event.target.id === "layer") { layer = event.target.value; move(); }
  });
  byId("flow").addEventListener("change", () => ask());

  /* Image */
  const scene = () => form.querySelector("#images input:checked")?.closest("label");
  const take = (question) => {
    suggestion = question;
    byId("question").value = question.text;
    byId("options").value = question.options;
    byId("choice").open = question.options !== "";
  };
  const suggest = () => {
    const questions = JSON.parse(scene()?.dataset.questions ?? "[]");
    byId("suggestions").replaceChildren(...questions.map((question) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = question.text;
      button.addEventListener("click", () => { take(question); ask(); });
      return button;
    }));
    if (suggestion && questions.length) take(questions[0]);
    else suggestion = null;
  };
  const load = async (file) => {
    if (!file) return;
    const most = Number(byId("file").dataset.max);
    if (file.size > most) {
      complain(`The image file has ${(file.size / 2 ** 20).toFixed(1)} MiB; at most ${most / 2 ** 20} are taken: make it smaller.`);
      return;
    }
    newest?.abort();
    say("Loading the image …");
    try {
      const found = await post("/image", file, "application/octet-stream");
      byId("own-picture").innerHTML = found.picture;
      byId("own-choice").hidden = false;
      byId("own-choice").title = found.title;
      Object.assign(byId("own"), { value: found.image, disabled: false, checked: true });
      suggest();
      complain("");
      ask();
    } catch (error) {
      complain(error.message);
      say("Not loaded.");
    }
  };
  byId("file").addEventListener("change", (event) => {
    load(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  byId("images").addEventListener("change", () => { suggest(); ask(); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    load(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) load(event.clipboardData.files[0]);
  });

  /* Question */
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  for (const id of ["question", "options"]) byId(id).addEventListener("input", () => { suggestion = null; });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  });
  byId("stop").addEventListener("click", () => newest?.abort());

  /* Method */
  const describe = (key) => {
    const option = chosen(key);
    if (!option) return;
    byId(`${key}-about`).textContent = option.dataset.sentence;
    byId(`${key}-settings`).value = option.dataset.settings;
    byId(`${key}-more`).hidden = option.value === "";
    for (const list of all("[data-fields]")) {
      if (list.dataset.fields.startsWith(`${key}:`)) list.hidden = list.dataset.fields !== `${key}:${option.value}`;
    }
    byId("count").hidden = !counted();
  };
  for (const key of ["prune", "heads"]) {
    byId(key)?.addEventListener("change", () => { describe(key); ask(); });
    byId(`${key}-settings`)?.addEventListener("change", ask);
    describe(key);
  }
  byId("slider").addEventListener("input", () => { byId("num_keep").value = byId("slider").value; soon(SLIDER_MS); });
  byId("num_keep").addEventListener("input", () => { byId("slider").value = byId("num_keep").value; soon(TYPING_MS); });

  suggestion = JSON.parse(scene()?.dataset.questions ?? "[]")[0] ?? null;
  suggest();
  ask();
})();
