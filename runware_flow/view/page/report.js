"use strict";
// Makes what is in sight out of the data in the page. Text only ever becomes text, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.words, stages = data.stages, states = data.states;
  const $ = (id) => document.getElementById(id);
  const word = (number) => (number === undefined ? "" : words[number]);

  // Short names, as view/report.py writes them: b stage, p place, s state, r ready, g began, t started, c last heard at
  // work, e settled, n attempts, k cost, x restored, l may be billed, u task id, y type, m model, w where declared,
  // q prompt, a answer, i media, f failure, h what to do, z why skipped, d after which rows, o full path.
  const rows = data.rows;
  const end = rows.reduce((most, row) => Math.max(most, row.e ?? row.c ?? row.t ?? 0), data.seconds) || 1;
  const texts = rows.map(() => []);
  rows.forEach((row) => { if (row.a && !row.i) for (const before of row.d ?? []) texts[before].push(row.a); });

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }
  function link(address, text) {
    let url;
    try { url = new URL(address); } catch { return text; }
    if (url.protocol !== "https:" && url.protocol !== "http:") return text;
    return make("a", { href: url.href, target: "_blank", rel: "noreferrer noopener" }, text);
  }
  function seconds(value) {
    if (value === undefined) return "unknown";
    if (value < 60) return value.toFixed(value < 10 ? 2 : 1) + " s";
    const whole = Math.round(value), pad = (n) => String(n).padStart(2, "0");
    return whole < 3600 ? `${Math.floor(whole / 60)}:${pad(whole % 60)}` :
      `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
  }
  const money = (value) => "$" + value.toFixed(value >= 0.0001 || value === 0 ? 4 : 6);
  const label = (row) => (stages[row.b] ? stages[row.b][1] : row.p);
  function promptOf(number, depth = 0) {
    const row = rows[number];
    if (row.q || depth > 20) return row.q ?? "";
    for (const before of row.d ?? []) { const found = promptOf(before, depth + 1); if (found) return found; }
    return "";
  }

  // Bars. A row gives at most four parts: waiting for a place, earlier attempts, at work, and after the last "processing".
  function parts(row) {
    const found = [], begun = row.g ?? row.t;
    if (row.x || begun === undefined) return found;
    if (row.r !== undefined && begun > row.r) found.push(["queue", row.r, begun]);
    if (row.t > begun) found.push(["again", begun, row.t]);
    const last = row.e ?? end, heard = row.c >= row.t ? row.c : undefined;
    found.push(["work", row.t, heard ?? last]);
    if (heard !== undefined && row.e !== undefined) found.push(["late", heard, last]);
    return found;
  }
  function track(row) {
    const element = make("div", { class: "track" });
    const found = parts(row);
    for (const [kind, from, to] of found) {
      const bar = make("span", { class: "bar " + kind });
      bar.style.left = (100 * from) / end + "%";
      bar.style.width = Math.max(0, (100 * (to - from)) / end) + "%";
      element.append(bar);
    }
    if (!found.length) element.append(make("span", { class: "none" }, row.x ? "restored from the journal" : word(row.z) ? "skipped" : ""));
    return element;
  }

  // Stages over time: how many nodes of each were at work.
  function lanes() {
    const bins = 160, counts = stages.map(() => new Array(bins + 1).fill(0));
    for (const row of rows) {
      if (row.x || row.t === undefined || row.b < 0) continue;
      const from = Math.floor((bins * (row.g ?? row.t)) / end), to = Math.floor((bins * (row.e ?? end)) / end);
      counts[row.b][Math.min(from, bins)] += 1;
      if (to + 1 <= bins) counts[row.b][to + 1] -= 1;
    }
    const peaks = stages.map(() => [0, 0]);  // now, most
    const changes = rows.filter((row) => !row.x && row.t !== undefined && row.b >= 0)
      .flatMap((row) => [[row.g ?? row.t, 1, row.b], [row.e ?? end, -1, row.b]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    for (const [, change, stage] of changes) peaks[stage][1] = Math.max(peaks[stage][1], (peaks[stage][0] += change));
    const shown = stages.map((stage, number) => [stage, number]).filter(([stage]) => stage[2] === "task" || stage[2] === "function");
    for (const [stage, number] of shown.slice(0, 60)) {
      let now = 0;
      const heights = counts[number].slice(0, bins).map((change) => (now += change)), tallest = Math.max(1, ...heights);
      const most = peaks[number][1], level = (height) => 34 - (32 * height) / tallest;
      const path = heights.map((height, bin) => `L${bin} ${level(height)}L${bin + 1} ${level(height)}`).join("");
      const name = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(name, "svg"), area = document.createElementNS(name, "path");
      svg.setAttribute("viewBox", `0 0 ${bins} 34`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${stage[1]}: at most ${most} at work at once`);
      area.setAttribute("d", `M0 34${path}L${bins} 34Z`);
      area.setAttribute("fill", "#4a86d8");
      svg.append(area);
      const button = make("button", { type: "button", class: "link", onclick: () => choose(stage[0]) }, stage[1]);
      $("lanes").append(make("div", { class: "lane" }, make("div", {}, button, make("span", { class: "most" }, `at most ${most} at once`)), svg));
    }
    if (shown.length > 60) $("lanes").append(make("p", { class: "dim" }, `and ${shown.length - 60} more stages`));
  }

  // The list holds only the rows in sight, so that any number of nodes can be looked at.
  let found = rows.map((_, number) => number), active = 0;
  const list = $("list"), narrow = matchMedia("(max-width: 700px)");
  const height = () => (narrow.matches ? 54 : 32);
  function filter() {
    const text = $("f-text").value.trim().toLowerCase(), state = $("f-state").value, stage = $("f-stage").value;
    const has = (value) => value !== undefined && value !== null && String(value).toLowerCase().includes(text);
    found = [];
    rows.forEach((row, number) => {
      if (state !== "" && row.s !== Number(state)) return;
      if (stage !== "" && (!stages[row.b] || stages[row.b][0] !== stage)) return;
      if (text && ![row.p, row.o, row.q, row.a, row.u, word(row.m), word(row.f), word(row.z)].some(has)) return;
      found.push(number);
    });
    const took = (row) => (row.x || row.t === undefined ? -1 : (row.e ?? end) - (row.g ?? row.t));
    const keys = { start: (row) => row.g ?? row.t ?? Infinity, long: (row) => -took(row), cost: (row) => -(row.k ?? -1) };
    const key = keys[$("f-order").value];
    if (key) found.sort((a, b) => { const x = key(rows[a]), y = key(rows[b]); return x === y ? a - b : x < y ? -1 : 1; });
    active = 0;
    list.scrollTop = 0;
    $("count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} nodes`;
    list.setAttribute("aria-rowcount", found.length);
    show(true);
    gallery(true);
  }
  function show(anew) {
    const size = height(), from = Math.max(0, Math.floor(list.scrollTop / size) - 8);
    const to = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / size) + 8);
    $("spacer").style.height = found.length * size + "px";
    const kept = new Map();
    for (const element of [...list.querySelectorAll(".item")]) {
      const place = Number(element.dataset.place);
      if (anew || place < from || place >= to) element.remove(); else kept.set(place, element);
    }
    for (let place = from; place < to; place++) if (!kept.has(place)) list.append(item(place, size));
    rove();
  }
  function rove() {
    let here = null;
    for (const element of list.querySelectorAll(".item")) {
      const is = Number(element.dataset.place) === active;
      element.tabIndex = is ? 0 : -1;
      if (is) here = element;
    }
    const first = list.querySelector(".item");
    if (!here && first) first.tabIndex = 0;
    return here;
  }
  function item(place, size) {
    const number = found[place], row = rows[number], state = states[row.s];
    const cell = (name, ...children) => make("div", { class: name, role: "gridcell" }, ...children);
    const element = make("div", { class: "item", role: "row", "aria-rowindex": place + 1, "data-place": place, "data-node": number },
      cell("name", row.p), cell("state s-" + state, state + (row.x ? " ↺" : "")), make("div", { role: "gridcell", "aria-label": spoken(row) }, track(row)));
    element.title = row.p;
    element.style.top = place * size + "px";
    return element;
  }
  function spoken(row) {
    if (row.x) return "restored from the journal";
    if (row.t === undefined) return "never sent";
    return row.e === undefined ? "not settled" : "took " + seconds(row.e - (row.g ?? row.t));
  }
  function move(place) {
    active = Math.max(0, Math.min(found.length - 1, place));
    const size = height(), top = active * size;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + size > list.scrollTop + list.clientHeight) list.scrollTop = top + size - list.clientHeight;
    show(false);
    rove()?.focus({ preventScroll: true });
  }
  list.addEventListener("scroll", () => requestAnimationFrame(() => show(false)));
  list.addEventListener("click", (event) => {
    const element = event.target.closest(".item");
    if (element) { active = Number(element.dataset.place); open(Number(element.dataset.node)); }
  });
  list.addEventListener("focusin", (event) => {
    const element = event.target.closest(".item");
    if (element) active = Number(element.dataset.place);
  });
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / height()) - 1);
    const steps = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: found.length - 1 };
    if (event.key in steps) { event.preventDefault(); move(steps[event.key]); }
    if ((event.key === "Enter" || event.key === " ") && found.length) { event.preventDefault(); open(found[active]); }
  });

  function axis() {
    const count = narrow.matches ? 4 : 8;
    const marks = Array.from({ length: count + 1 }, (_, mark) => {
      const element = make("span", {}, seconds((end * mark) / count));
      element.style.left = (100 * mark) / count + "%";
      return element;
    });
    $("axis").replaceChildren(...marks);
  }

  // One node
  let opened = 0;
  function facts(number) {
    const row = rows[number], begun = row.g ?? row.t;
    const ran = !row.x && begun !== undefined;
    const late = row.c >= row.t && row.e !== undefined ? `at most ${seconds(row.e - row.c)}: the service last said “processing” at ${seconds(row.c)}` : "unknown";
    const cost = row.k !== undefined ? money(row.k) : row.l ? "unknown; it may be billed" : "";
    return [
      ["State", states[row.s] + (row.x ? ", restored from the journal" : "")],
      ["Stage", label(row)], ["Why", word(row.f) || word(row.z)], ["What to do", word(row.h)],
      ["Prompt", row.q], ["Answer", row.a],
      ["Ready", ran ? (row.r === undefined ? "unknown" : "at " + seconds(row.r)) : ""],
      ["Queued", ran ? (row.r === undefined ? "unknown" : seconds(Math.max(0, begun - row.r))) : ""],
      ["Sent", ran ? "at " + seconds(row.t) : ""], ["Arrived", ran && row.e !== undefined ? "at " + seconds(row.e) : ""],
      ["Took", ran && row.e !== undefined ? seconds(row.e - begun) : ""],
      ["To be collected", ran && row.u ? late : ""],
      ["Attempts", row.n > 1 ? String(row.n) : ""], ["Cost", cost],
      ["Task", [word(row.y), word(row.m)].filter(Boolean).join(" · ")], ["Task id", row.u],
      ["Path", row.o], ["Declared at", word(row.w)],
    ].filter(([, value]) => value);
  }
  function open(number) {
    opened = number;
    const row = rows[number];
    $("d-title").textContent = row.p;
    const media = (row.i ?? []).map(([kind, address, picture]) => make("div", {},
      picture ? make("img", { src: picture, alt: promptOf(number) || kind }) : "", address ? link(address, `open the ${kind}`) : ""));
    const all = facts(number).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
    $("d-body").replaceChildren(...media, make("dl", {}, ...all));
    const place = found.indexOf(number);
    $("d-before").disabled = place <= 0;
    $("d-after").disabled = place < 0 || place >= found.length - 1;
    if (!$("details").open) $("details").showModal();
    $("details").scrollTop = 0;
  }
  $("d-before").addEventListener("click", () => open(found[found.indexOf(opened) - 1]));
  $("d-after").addEventListener("click", () => open(found[found.indexOf(opened) + 1]));

  // Pictures
  let hung = 0;
  const some = 48;
  function gallery(anew) {
    const all = found.filter((number) => rows[number].i);
    if (anew) { hung = 0; $("gallery").replaceChildren(); }
    for (const number of all.slice(hung, hung + some)) for (const medium of rows[number].i) $("gallery").append(card(number, medium));
    hung = Math.min(all.length, hung + some);
    $("p-count").textContent = all.length ? `${hung.toLocaleString("en")} of ${all.length.toLocaleString("en")} nodes with media` : "none";
    $("more").hidden = hung >= all.length;
  }
  function card(number, [kind, address, picture]) {
    const prompt = promptOf(number);
    const blank = make("div", { class: "blank" }, address ? link(address, `${kind}: not kept, open it`) : `${kind}: not kept`);
    const image = picture ? make("img", { src: picture, alt: prompt || kind, decoding: "async" }) : blank;
    const shown = picture && address ? link(address, image) : image;
    return make("figure", {}, shown, make("figcaption", {}, make("b", {}, rows[number].p),
      prompt ? make("span", { class: "clamp" }, prompt) : "", ...texts[number].slice(0, 3).map((text) => make("span", { class: "text clamp" }, text)),
      make("button", { type: "button", onclick: () => open(number), "aria-label": "Details of " + rows[number].p }, "Details")));
  }
  $("more").addEventListener("click", () => gallery(false));

  // Filters, and everything that leads to them
  function choose(stage) {
    $("f-stage").value = stage;
    filter();
    $("timeline").scrollIntoView();
    $("f-text").focus({ preventScroll: true });
  }
  const counts = states.map((_, state) => rows.filter((row) => row.s === state).length);
  $("f-state").append(make("option", { value: "" }, "any"), ...states.map((state, number) => make("option", { value: number }, `${state} (${counts[number]})`)).filter((_, number) => counts[number]));
  $("f-stage").append(make("option", { value: "" }, "any"), ...stages.map(([id, name]) => make("option", { value: id }, name)));
  let timer = 0;
  $("f-text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 120); });
  for (const id of ["f-state", "f-stage", "f-order"]) $(id).addEventListener("change", filter);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", (event) => {
    const stage = event.target.closest("[data-stage], [data-box]"), row = event.target.closest("[data-row]");
    if (stage) { event.preventDefault(); choose(stage.dataset.stage ?? stage.dataset.box); }
    if (row) open(Number(row.dataset.row));
  });
  narrow.addEventListener("change", () => { axis(); show(true); });
  new ResizeObserver(() => show(false)).observe(list);
  axis();
  lanes();
  filter();
})();
