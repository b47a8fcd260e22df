"use strict";
// What a reader does with the page: find, sort, enlarge, compare, look into a node. Cards are HTML that view/gallery.py
// has written and escaped; what is made here is only ever text.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data"), late = read("late");
  const words = data.words, states = data.states;
  let stages = data.stages;
  const $ = (id) => document.getElementById(id);
  const word = (number) => (number === undefined ? "" : words[number]);

  // Short names, as view/report.py writes them. Of a node: b stage, p place, s state, r ready, g began, t started,
  // c last heard at work, e settled, n attempts, k cost, x restored, l may be billed, u task id, y type, m model,
  // w where declared, q prompt, a answer, i media as [kind, address, file], j saved as, f failure, h what to do,
  // z why skipped, d after which rows, o full path. Of an item: i id, n name, q title, s state, r rows, c cost,
  // u unknown costs, d seconds, v chosen.
  const rows = data.rows;
  let items = data.items;
  let end = 1;
  function clock() { end = rows.reduce((most, row) => Math.max(most, row.e ?? row.c ?? row.t ?? 0), data.seconds) || 1; }
  clock();

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
  function parsed(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  // Cards. Those in the page are taken as they are; of the others only those of the page in sight are made.
  const cards = $("cards"), made = new Map();
  for (const element of cards.children) made.set(element.id, element);
  const html = new Map();
  items.forEach((item, place) => { if (late[place]) html.set(item.i, late[place]); });
  late.length = 0;
  function cardOf(item) {
    let element = made.get(item.i);
    if (!element) made.set(item.i, (element = parsed(html.get(item.i))));
    return element;
  }
  const most = 500, some = 100;
  const size = () => (items.length <= most ? most : some);
  let shown = items, sheet = 0, found = [], active = 0;

  function matches(item, state, stage, text) {
    if (stage === "" && state !== "" && item.s !== Number(state)) return false;
    if (stage !== "" && !item.r.some((number) => {
      const row = rows[number];
      return stages[row.b] && stages[row.b][0] === stage && (state === "" || row.s === Number(state));
    })) return false;
    if (!text) return true;
    const has = (value) => value !== undefined && value !== null && String(value).toLowerCase().includes(text);
    return has(item.n) || has(item.q) || item.r.some((number) => {
      const row = rows[number];
      return [row.p, row.o, row.q, row.a, row.u, row.j, word(row.m), word(row.f), word(row.z)].some(has);
    });
  }
  function filter(keepsPlace) {
    const text = $("f-text").value.trim().toLowerCase(), state = $("f-state").value, stage = $("f-stage").value;
    shown = items.filter((item) => matches(item, state, stage, text));
    const worst = ["failed", "abandoned", "running", "waiting", "skipped", "ok"].map((name) => states.indexOf(name));
    const order = $("f-order").value;
    const keys = { worst: (item) => worst.indexOf(item.s), long: (item) => -(item.d ?? -1), cost: (item) => -(item.c ?? -1) };
    const key = keys[order];
    if (key) shown.sort((a, b) => key(a) - key(b));
    if (order === "name") shown.sort((a, b) => a.n.localeCompare(b.n, "en", { numeric: true }));
    found = shown.flatMap((item) => item.r).filter((number) => {
      const row = rows[number];
      return (stage === "" || (stages[row.b] && stages[row.b][0] === stage)) && (stage === "" || state === "" || row.s === Number(state));
    });
    const took = (row) => (row.x || row.t === undefined ? -1 : (row.e ?? end) - (row.g ?? row.t));
    if (order === "long") found.sort((a, b) => took(rows[b]) - took(rows[a]));
    if (order === "cost") found.sort((a, b) => (rows[b].k ?? -1) - (rows[a].k ?? -1));
    $("count").textContent = `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
    $("n-count").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} nodes`;
    list.setAttribute("aria-rowcount", found.length);
    if (keepsPlace !== true) { sheet = 0; active = 0; list.scrollTop = 0; }
    turn(sheet);
    show(true);
  }
  function turn(to) {
    const count = Math.max(1, Math.ceil(shown.length / size()));
    sheet = Math.max(0, Math.min(count - 1, to));
    const wanted = shown.slice(sheet * size(), (sheet + 1) * size()).map(cardOf);
    if (wanted.length !== cards.children.length || wanted.some((element, place) => cards.children[place] !== element)) cards.replaceChildren(...wanted);
    $("pages").hidden = count < 2;
    $("p-count").textContent = `page ${(sheet + 1).toLocaleString("en")} of ${count.toLocaleString("en")}`;
    $("p-before").disabled = sheet === 0;
    $("p-after").disabled = sheet === count - 1;
  }
  $("p-before").addEventListener("click", () => { turn(sheet - 1); $("gallery").scrollIntoView(); });
  $("p-after").addEventListener("click", () => { turn(sheet + 1); $("gallery").scrollIntoView(); });

  // Pictures, enlarged. One is in sight, or two beside each other: then the left one stays.
  const box = $("lightbox"), [left, right] = box.querySelectorAll("figure");
  let here = null, zoom = 0;
  const openers = () => [...cards.querySelectorAll(".open")];
  function told(opener) {
    const shot = opener.closest(".shot"), image = opener.querySelector("img"), [row, place] = shot.dataset.m.split(".").map(Number);
    const file = rows[row]?.i?.[place]?.[2] ?? "";
    return { image, file, text: image.alt + (shot.classList.contains("picked") ? " (chosen)" : "") };
  }
  function put(figure, opener) {
    const { image, file, text } = told(opener), target = figure.querySelector("img");
    target.onerror = () => { target.onerror = null; target.src = image.src; figure.querySelector("figcaption").textContent = "The file has moved; this is its thumbnail. " + text; };
    target.onload = fit;
    target.alt = text;
    figure.querySelector("figcaption").textContent = text;
    target.src = file || image.src;
  }
  function look(opener) {
    here = opener;
    put(right, opener);
    const all = openers(), place = all.indexOf(opener), { file } = told(opener);
    $("l-where").textContent = `${(place + 1).toLocaleString("en")} of ${all.length.toLocaleString("en")}` + (shown.length > size() ? " on this page" : "");
    $("l-before").disabled = place === 0 && sheet === 0;
    $("l-after").disabled = place === all.length - 1 && (sheet + 1) * size() >= shown.length;
    $("l-file").hidden = !file;
    if (file) $("l-file").href = file;
    if (!box.open) { zoom = 0; compare(false); box.showModal(); }
    fit();
  }
  function step(by) {
    const all = openers(), place = all.indexOf(here) + by;
    if (all[place]) return look(all[place]);
    const before = sheet;
    for (let next = sheet + by; next >= 0 && next * size() < shown.length; next += by) {
      turn(next);
      const there = openers();
      if (there.length) return look(by > 0 ? there[0] : there[there.length - 1]);
    }
    turn(before);
  }
  function fit() {
    for (const figure of [left, right]) {
      const image = figure.querySelector("img");
      figure.classList.toggle("zoomed", zoom > 0);
      image.style.width = zoom > 0 && image.naturalWidth ? image.naturalWidth * zoom + "px" : "";
    }
    $("l-fit").textContent = zoom ? `${Math.round(zoom * 100)} %` : "Fit";
  }
  function enlarge(by) {
    const image = right.querySelector("img"), pane = right.querySelector(".pane");
    const now = zoom || (image.clientWidth && image.naturalWidth ? Math.min(pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight) : 1);
    zoom = Math.max(0.05, Math.min(8, now * by));
    fit();
  }
  function compare(on) {
    left.hidden = !on;
    $("l-compare").setAttribute("aria-pressed", on);
    if (on) put(left, here);
  }
  $("l-before").addEventListener("click", () => step(-1));
  $("l-after").addEventListener("click", () => step(1));
  $("l-in").addEventListener("click", () => enlarge(1.25));
  $("l-out").addEventListener("click", () => enlarge(0.8));
  $("l-fit").addEventListener("click", () => { zoom = 0; fit(); });
  $("l-compare").addEventListener("click", () => compare(left.hidden));
  $("l-close").addEventListener("click", () => box.close());
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => enlarge(1.25), "=": () => enlarge(1.25),
      "-": () => enlarge(0.8), 0: () => { zoom = 0; fit(); }, c: () => compare(left.hidden), C: () => compare(left.hidden),
    };
    if (event.key in keys) { event.preventDefault(); keys[event.key](); }
  });
  box.addEventListener("close", () => here?.focus());
  const panes = [left, right].map((figure) => figure.querySelector(".pane"));
  for (const pane of panes) {
    let drag = null;
    pane.addEventListener("dblclick", () => { zoom = zoom ? 0 : 1; fit(); });
    pane.addEventListener("pointerdown", (event) => { if (event.button === 0) { drag = [event.clientX + pane.scrollLeft, event.clientY + pane.scrollTop]; pane.setPointerCapture(event.pointerId); } });
    pane.addEventListener("pointermove", (event) => { if (drag) { pane.scrollLeft = drag[0] - event.clientX; pane.scrollTop = drag[1] - event.clientY; } });
    pane.addEventListener("pointerup", () => { drag = null; });
    pane.addEventListener("scroll", () => { const other = panes.find((one) => one !== pane); other.scrollLeft = pane.scrollLeft; other.scrollTop = pane.scrollTop; });
    pane.firstElementChild.addEventListener("dragstart", (event) => event.preventDefault());
  }
  cards.addEventListener("click", (event) => {
    const opener = event.target.closest(".open");
    if (opener && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); look(opener); }
  });
  cards.addEventListener("keydown", (event) => {
    const opener = event.target.closest(".open");
    if (!opener) return;
    const all = openers(), place = all.indexOf(opener), at = opener.getBoundingClientRect();
    const near = (sign) => {
      let best = null, least = Infinity;
      for (const one of all) {
        const to = one.getBoundingClientRect(), down = sign * (to.top - at.top);
        const far = down * 4 + Math.abs(to.left - at.left);
        if (down > 8 && far < least) { least = far; best = one; }
      }
      return best;
    };
    const to = { ArrowRight: () => all[place + 1], ArrowLeft: () => all[place - 1], ArrowDown: () => near(1), ArrowUp: () => near(-1), Home: () => all[0], End: () => all[all.length - 1] }[event.key]?.();
    if (to) { event.preventDefault(); to.focus(); }
  });

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
    $("lanes").replaceChildren();
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

  // The list of nodes holds only the rows in sight, so that any number of them can be looked at.
  const list = $("list"), narrow = matchMedia("(max-width: 700px)");
  const height = () => (narrow.matches ? 54 : 32);
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
      ["Saved as", row.j], ["Path", row.o], ["Declared at", word(row.w)],
    ].filter(([, value]) => value);
  }
  function open(number) {
    opened = number;
    const row = rows[number];
    $("d-title").textContent = row.p;
    const media = (row.i ?? []).map(([kind, address, file], place) => {
      const picture = cards.querySelector(`[data-m="${number}.${place}"] img`);
      const where = file ? make("a", { href: file, target: "_blank" }, `open the ${kind}`) : address ? link(address, `open the ${kind} at the service`) : "";
      return make("div", {}, picture ? make("img", { src: picture.src, alt: promptOf(number) || kind }) : "", where);
    });
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

  // Items as a table for other programs. A cell that a spreadsheet would take for a formula is given a quote.
  function csv() {
    const cell = (value) => {
      const text = String(value ?? "").replace(/^(?=[=+@\t\r-])/, "'");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [["key", "prompt", "state", "error", "cost", "seconds", "texts", "files", "urls", "chosen"]];
    for (const item of shown) {
      const mine = item.r.map((number) => rows[number]), media = mine.flatMap((row) => row.i ?? []);
      const chosen = (item.v ?? []).map((name) => name.split(".").map(Number)).map(([row, place]) => rows[row].i[place]).map((one) => one[2] || one[1]);
      const saved = mine.map((row) => row.j).filter(Boolean);
      lines.push([item.n, item.q ?? "", states[item.s], mine.map((row) => word(row.f)).filter(Boolean).join("; "),
        item.c === undefined ? "" : item.c.toFixed(6), item.d ?? "", mine.filter((row) => !row.j).map((row) => row.a).filter(Boolean).join("\n"),
        (saved.length ? saved : media.map((one) => one[2]).filter(Boolean)).join(" "), media.map((one) => one[1]).filter(Boolean).join(" "), chosen.join(" ")]);
    }
    return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }
  $("csv").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" }));
    make("a", { href: address, download: data.name.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 80) + ".csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });

  // Filters, and everything that leads to them
  function choose(stage, state) {
    if (stage !== undefined) $("f-stage").value = stage;
    if (state !== undefined) $("f-state").value = state === "any" ? "" : states.indexOf(state);
    filter();
    $("gallery").scrollIntoView();
    $("f-text").focus({ preventScroll: true });
  }
  function options() {
    const chosen = [$("f-state").value, $("f-stage").value];
    const counts = states.map((_, state) => items.filter((item) => item.s === state).length);
    $("f-state").replaceChildren(make("option", { value: "" }, "any"), ...states.map((state, number) => make("option", { value: number }, counts[number] ? `${state} (${counts[number]})` : state)));
    $("f-stage").replaceChildren(make("option", { value: "" }, "any"), ...stages.map(([id, name]) => make("option", { value: id }, name)));
    [$("f-state").value, $("f-stage").value] = chosen;
  }
  let timer = 0;
  $("f-text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 120); });
  for (const id of ["f-state", "f-stage", "f-order"]) $(id).addEventListener("change", filter);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]") || event.target.closest("input, select")) return;
    event.preventDefault();
    $("f-text").focus();
  });
  document.addEventListener("click", (event) => {
    const choice = event.target.closest("[data-stage], [data-box], [data-state]"), row = event.target.closest("[data-row]");
    if (choice) {
      event.preventDefault();
      const { stage, box: drawn, state } = choice.dataset;
      choose(stage ?? drawn ?? "", state ?? "any");
    }
    if (row) open(Number(row.dataset.row));
  });

  // A question before what cannot be undone, or costs money.
  let answered = null;
  function ask(text, yes, choices, then) {
    $("a-text").textContent = text;
    $("a-yes").textContent = yes;
    $("a-choice").replaceChildren(...choices.map(([value, name], place) => make("label", {}, make("input", { type: "radio", name: "choice", value, ...(place === 0 ? { checked: "" } : {}) }), " " + name)));
    $("a-yes").hidden = !yes;
    answered = then;
    $("ask").showModal();
  }
  $("a-no").addEventListener("click", () => $("ask").close());
  $("a-yes").addEventListener("click", () => { $("ask").close(); answered?.($("a-choice").querySelector("input:checked")?.value); });
  async function post(where, body) {
    let text = "the page's server does not answer: it has ended";
    try {
      const answer = await fetch(where, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
      if (answer.ok) return;
      text = await answer.text();
    } catch { /* told below */ }
    ask(text, "", [], null);
  }

  // Marks: an item, or one node of it with what follows, is bought anew by the next run.
  function followers(item, from) {
    const chosen = new Set([from]);
    for (const number of item.r) if ((rows[number].d ?? []).some((before) => chosen.has(before))) chosen.add(number);
    return [...chosen];
  }
  const nodeOf = (number) => [word(rows[number].v), rows[number].o ?? rows[number].p];
  function priced(numbers) {
    const bought = numbers.filter((number) => rows[number].u), known = bought.filter((number) => rows[number].k !== undefined);
    const sum = known.reduce((total, number) => total + rows[number].k, 0), unknown = bought.length - known.length;
    return `${bought.length} ${bought.length === 1 ? "task" : "tasks"}, ${money(sum)} the last time` + (unknown ? ` and ${unknown} of unknown cost` : "");
  }
  cards.addEventListener("click", (event) => {
    const button = event.target.closest("[data-redo]");
    if (!button) return;
    const item = items.find((one) => one.i === button.closest(".card").id);
    if (button.dataset.marked === "1") { post("mark", { nodes: item.r.map(nodeOf), marked: false }); return; }
    const tasks = item.r.filter((number) => rows[number].u || rows[number].j);
    const choices = [["all", `the whole item: ${priced(item.r)}`], ...tasks.filter((number) => rows[number].u).map((number) => [number, `${label(rows[number])} and what follows: ${priced(followers(item, number))}`])];
    ask(`The next run with this journal buys anew, at the prices of then (“${item.q ?? item.n}”):`, "Buy anew", choices, (choice) => {
      const numbers = choice === "all" ? item.r : [Number(choice)];
      post("mark", { nodes: numbers.map(nodeOf), marked: true });
    });
  });

  // A page that is served hears of its run: each message has all that has changed since the last one.
  function follow(place) {
    let version = Number(place.dataset.version), queued = false;
    const events = new EventSource(`events?from=${version}`), told = $("link");
    events.addEventListener("open", () => { told.textContent = "live"; });
    events.addEventListener("error", () => { told.textContent = "no connection; trying again"; });
    events.addEventListener("end", () => { events.close(); told.textContent = "ended"; if ($("stop")) $("stop").hidden = true; });
    events.addEventListener("change", (event) => { take(JSON.parse(event.data)); });
    function take(news) {
      version = news.version;
      news.words.forEach((text, at) => { words[news.from + at] = text; });
      stages = news.stages;
      data.seconds = news.seconds;
      rows.length = news.count;
      for (const [number, row] of news.rows) rows[number] = row;
      const known = new Map(items.map((item) => [item.i, item]));
      for (const name of news.gone) { known.delete(name); made.get(name)?.remove(); made.delete(name); html.delete(name); }
      for (const [item, text] of news.cards) {
        known.set(item.i, item);
        html.set(item.i, text);
        const old = made.get(item.i);
        if (!old) continue;
        const fresh = parsed(text), focus = old.contains(document.activeElement) ? document.activeElement : null;
        const at = focus && [...old.querySelectorAll("a, button")].indexOf(focus), holds = here && old.contains(here) && here.closest(".shot").dataset.m;
        const pictures = new Map([...old.querySelectorAll("img")].map((image) => [image.getAttribute("src"), image]));
        for (const image of fresh.querySelectorAll("img")) if (pictures.has(image.getAttribute("src"))) image.replaceWith(pictures.get(image.getAttribute("src")));
        old.replaceWith(fresh);
        made.set(item.i, fresh);
        if (focus) [...fresh.querySelectorAll("a, button")][at]?.focus();
        if (holds) here = fresh.querySelector(`[data-m="${holds}"] .open`) ?? here;
      }
      items = [...known.values()].sort((a, b) => a.r[0] - b.r[0]);
      for (const [name, text] of Object.entries(news.parts)) $(name).innerHTML = text;
      if ($("stop")) $("stop").hidden = !["running", "waiting"].includes(news.state);
      $("name").textContent = news.name;
      document.title = `${news.state} · ${news.name}`;
      if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; clock(); options(); axis(); lanes(); filter(true); }); }
    }
    $("stop")?.addEventListener("click", () => {
      const flying = rows.filter((row) => states[row.s] === "running").length;
      ask(`Stop the run? Nothing new is sent. ${flying === 1 ? "One node is" : `${flying} nodes are`} in flight: what was sent may be billed and is waited for.`, "Stop the run", [], () => post("stop", {}));
    });
  }
  narrow.addEventListener("change", () => { axis(); show(true); });
  new ResizeObserver(() => show(false)).observe(list);
  for (const element of document.querySelectorAll(".script[hidden]")) element.hidden = false;
  options();
  axis();
  lanes();
  filter();
  if ($("live")) follow($("live"));
})();
