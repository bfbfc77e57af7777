// The inspection page: draws pairs from the JSON beside it. Text reaches the page through text nodes only.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const json = (id) => JSON.parse($(id).textContent);
  const NS = { html: "http://www.w3.org/1999/xhtml", svg: "http://www.w3.org/2000/svg", math: "http://www.w3.org/1998/Math/MathML" };
  const { index, kinds, unit, gamma } = json("index");
  const kindOf = new Map();                       // tag -> [namespace, allowed attributes]
  for (const [kind, tags, attributes] of kinds) for (const tag of tags) kindOf.set(tag, [NS[kind], new Set(attributes)]);

  function build(node) {
    if (typeof node === "string") return document.createTextNode(node);
    const [tag, attributes, ...children] = node;
    if (!kindOf.has(tag)) throw new Error("unexpected tag");
    const [ns, allowed] = kindOf.get(tag);
    const element = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(attributes)) if (allowed.has(name)) element.setAttribute(name, value);
    for (const child of children) element.append(build(child));
    if (attributes.class === "row same") element.append(element.firstChild.cloneNode(true));
    return element;
  }
  function make(tag, className, text) {
    const element = document.createElement(tag);
    element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const app = document.body, list = $("list"), view = $("view"), count = $("count");
  const items = index.map((row, k) => {           // row: [id, change ratio, first edit, edits, tokens, start of the prompt]
    const item = make("li", "item");
    item.id = "item-" + k;
    item.setAttribute("role", "option");
    item.append(make("span", "title", row[5] || "(no prompt)"), make("span", "ratio" + (row[1] > gamma ? " over" : ""), row[1].toFixed(3)), make("span", "id", row[0]));
    item.addEventListener("click", () => { show(k); app.classList.remove("open-list"); });
    return item;
  });
  let order = index.map((_, k) => k), shown = order, at = -1, search = 0;

  function show(k) {
    if (at >= 0) items[at].removeAttribute("aria-selected");
    at = k;
    if (k < 0) { view.replaceChildren(make("p", "empty", "No pair matches.")); place(); return; }
    items[k].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", items[k].id);
    items[k].scrollIntoView({ block: "nearest" });
    view.replaceChildren(build(json("p" + k)));
    if (app.classList.contains("unfold")) unfold();
    view.parentElement.scrollTop = 0;
    history.replaceState(null, "", "#" + (k + 1));
    place();
  }
  const place = () => { count.textContent = at < 0 ? "0 of " + shown.length : shown.indexOf(at) + 1 + " of " + shown.length; };
  const step = (by) => { const next = shown[shown.indexOf(at) + by]; if (next !== undefined) show(next); };
  function relist(found) {
    shown = found;
    list.replaceChildren(...shown.map((k) => items[k]));
    if (!shown.includes(at)) show(shown.length ? shown[0] : -1);
    else { items[at].scrollIntoView({ block: "nearest" }); place(); }
  }
  const keys = { order: (k) => k, ratio: (k) => index[k][1], "-ratio": (k) => -index[k][1], first: (k) => index[k][2], edits: (k) => -index[k][3], length: (k) => -index[k][4] };
  function sort() {
    const key = keys[$("sort").value];
    order = index.map((_, k) => k).sort((a, b) => key(a) - key(b) || a - b);
    find();
  }
  // Searches the JSON text of every pair, a few milliseconds at a time so that the page stays responsive.
  function find() {
    const mine = ++search, query = $("search").value.trim();
    if (!query) { relist(order); return; }
    const escaped = JSON.stringify(query).slice(1, -1).replace(/[<>&\u2028\u2029]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
    const pattern = new RegExp(escaped.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"), "iu");
    const found = [];
    let i = 0;
    (function some() {
      const end = performance.now() + 10;
      while (i < order.length && performance.now() < end) {
        const k = order[i++];
        if (String(index[k][0]) === query || pattern.test($("p" + k).textContent)) found.push(k);
      }
      if (mine !== search) return;
      if (i < order.length) { count.textContent = "searching …"; setTimeout(some); } else relist(found);
    })();
  }
  const unfold = () => { const open = app.classList.contains("unfold"); for (const d of view.querySelectorAll("details")) d.open = open; };
  const toggle = (name) => { const on = app.classList.toggle(name); const b = $(name); if (b) b.setAttribute("aria-pressed", on); if (name === "unfold") unfold(); };
  function theme() {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }

  $("sort").addEventListener("change", sort);
  let wait;
  $("search").addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(find, 120); });
  $("prev").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("theme").addEventListener("click", theme);
  for (const name of ["show-tex", "unfold", "open-list"]) $(name).addEventListener("click", () => toggle(name));
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target === $("search")) { if (e.key === "Escape" || e.key === "Enter") e.target.blur(); return; }
    if (e.target === $("sort")) return;
    const act = { j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1), "/": () => $("search").focus(),
      t: () => toggle("show-tex"), u: () => toggle("unfold"), d: theme }[e.key];
    if (act) { e.preventDefault(); act(); }
  });
  const fromHash = () => { const k = parseInt(location.hash.slice(1), 10) - 1; return index[k] ? k : -1; };
  addEventListener("hashchange", () => { const k = fromHash(); if (k >= 0 && k !== at) show(k); });

  $("unit").textContent = unit;
  list.replaceChildren(...items);
  if (index.length) show(Math.max(0, fromHash()));
  app.dataset.ready = "1";
})();
