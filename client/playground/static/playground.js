// The playground. Scores come from the real Python rewards behind the page; every text is set as text.

import { element, themed } from "../shared/page.js";
import { WORDS } from "./words.js";

const byId = (id) => document.getElementById(id);
const state = { language: localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"), version: null, columns: {}, completions: [], weights: null, found: null, own: "" };
let asked = 0;
let timer = null;

function word(key, values = {}) {
  const text = WORDS[state.language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{([a-z_]+)\}/g, (_, name) => (values[name] ?? "") === "" ? "–" : String(values[name]));
}

const number = (value) => (value === null || value === undefined ? word("left-out") : String(Number(value.toFixed(4))));

async function ask(path, options) {
  const answer = await fetch(`api/${path}`, options);
  const found = await answer.json().catch(() => ({ error: `${answer.status}` }));
  if (!answer.ok) throw new Error(found.error ?? String(answer.status));
  return found;
}

// --- what is asked ------------------------------------------------------------------------------------------------------

async function begin(rewards = "", group = "") {
  const start = await ask(`start?${new URLSearchParams({ rewards, group })}`);
  Object.assign(state, { version: start.version, weights: null, own: start.own, columns: { ...start.example.columns }, completions: [...start.example.completions] });
  const select = byId("rewards");
  select.replaceChildren(...start.choices.map((choice) => element("option", { value: choice }, choice)));
  select.value = start.rewards;
  byId("question").value = start.example.question;
  byId("answer").value = start.example.answer;
  byId("group-label").hidden = !start.groups;
  byId("group").replaceChildren(...Array.from({ length: start.groups }, (_, n) => element("option", { value: n }, String(n + 1))));
  byId("group").value = group || "0";
  drawColumns();
  drawCompletions();
  await score();
  byId("spread").textContent = "";
  if (start.groups) await showSpread();
}

async function showSpread() {
  const found = await ask("spread");
  const share = found.silent.length / found.groups;
  byId("spread").textContent = word("spread", { silent: found.silent.length || "0", groups: found.groups, share: Math.round(100 * share) }) + (share > 0.5 ? ` ${word("spread-bad")}` : "");
  byId("spread").className = share > 0.5 ? "warn" : "quiet";
}

async function score() {
  const mine = ++asked;
  const body = JSON.stringify({
    rewards: byId("rewards").value,
    question: byId("question").value,
    answer: byId("answer").value,
    columns: state.columns,
    completions: state.completions,
    weights: state.weights,
    scale_rewards: byId("scale").value,
    normalize_first: byId("normalize").checked,
  });
  try {
    const found = await ask("score", { method: "POST", headers: { "content-type": "application/json" }, body });
    if (mine !== asked) return;
    state.found = found;
    byId("status").textContent = "";
    byId("status").className = "quiet";
  } catch (error) {
    if (mine !== asked) return;
    state.found = null;
    byId("status").textContent = word("error", { error: error.message });
    byId("status").className = "bad";
  }
  drawScores();
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(score, 150);
}

// --- what is drawn ------------------------------------------------------------------------------------------------------

function drawColumns() {
  byId("columns").replaceChildren(
    ...Object.keys(state.columns).map((name) => {
      const area = element("textarea", { rows: 3, oninput: (event) => ((state.columns[name] = event.target.value), later()) });
      area.value = state.columns[name];
      return element("label", {}, element("span", {}, word("column", { name })), " ", area);
    }),
  );
}

function drawCompletions() {
  byId("completions").replaceChildren(
    ...state.completions.map((text, at) => {
      const area = element("textarea", { rows: Math.min(10, 2 + text.split("\n").length), "aria-label": word("completion", { number: at + 1 }), oninput: (event) => ((state.completions[at] = event.target.value), later()) });
      area.value = text;
      const remove = element("button", { type: "button", onclick: () => (state.completions.splice(at, 1), drawCompletions(), score()) }, word("remove"));
      remove.disabled = state.completions.length < 2;
      const head = element("div", { class: "head" }, element("strong", {}, word("completion", { number: at + 1 })), element("b", { class: "sum" }), element("b", { class: "advantage" }), element("div", { class: "bar", "aria-hidden": "true" }), remove);
      return element("article", { class: "completion" }, head, area, element("div", { class: "paid" }));
    }),
  );
  drawScores();
}

function bar(value, most) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "-100 0 200 10");
  made.setAttribute("preserveAspectRatio", "none");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const length = (100 * Math.abs(value)) / most;
  for (const [name, given] of Object.entries({ x: value < 0 ? -length : 0, y: 0, width: length, height: 10 })) rect.setAttribute(name, given);
  if (value < 0) rect.setAttribute("class", "minus");
  made.append(rect);
  return made;
}

function drawScores() {
  const found = state.found;
  const cards = [...document.querySelectorAll(".completion")];
  const signal = byId("signal");
  signal.textContent = found ? word(found.signal ? "signal" : "silent") : "";
  signal.className = found?.signal ? "fine" : "warn";
  const most = Math.max(1, ...(found?.advantages ?? []).map(Math.abs));
  cards.forEach((card, at) => {
    const [sum, advantage, track, paid] = [".sum", ".advantage", ".bar", ".paid"].map((name) => card.querySelector(name));
    if (!found || at >= found.total.length) {
      for (const part of [sum, advantage, track, paid]) part.replaceChildren();
      return;
    }
    sum.textContent = word("sum", { total: number(found.total[at]) });
    advantage.textContent = word("advantage", { value: number(found.advantages[at]) });
    track.replaceChildren(bar(found.advantages[at], most));
    const heads = ["reward", "pays", "counts", "why"].map((key) => element("th", { scope: "col" }, word(key)));
    const rows = found.rewards.map((reward) => {
      const value = reward.values[at];
      const why = reward.error
        ? [element("li", { class: "bad" }, reward.error)]
        : reward.reasons[at].map((reason) => element("li", { class: reason.good ? "good" : "wrong" }, word(reason.code, reason.values)));
      const about = reward.about ? { title: reward.about } : {};
      return element("tr", {}, element("th", { scope: "row", ...about }, reward.name), element("td", { class: "n" }, number(value)), element("td", { class: "n" }, value === null ? "" : number(value * reward.weight)), element("td", {}, element("ul", {}, ...why)));
    });
    paid.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)));
  });
  if (found) drawWeights(found.rewards);
}

function drawWeights(rewards) {
  const shape = rewards.map((reward) => reward.name).join(",") + state.language;
  if (byId("weights").dataset.shape === shape) return;
  byId("weights").dataset.shape = shape;
  state.weights = rewards.map((reward) => reward.weight);
  byId("weights").replaceChildren(
    ...rewards.map((reward, at) => {
      const input = element("input", { type: "number", step: "0.1", "aria-label": word("weight", { name: reward.name }), oninput: (event) => ((state.weights[at] = Number(event.target.value) || 0), later()) });
      input.value = reward.weight;
      return element("div", { class: "weight" }, element("span", {}, reward.name), input);
    }),
  );
}

function speak() {
  document.documentElement.lang = state.language;
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = word(each.dataset.word);
  byId("language").textContent = word("language");
  byId("language").lang = state.language === "en" ? "zh" : "en";
  byId("theme").setAttribute("aria-label", word("theme"));
  document.title = word("title");
  drawColumns();
  drawCompletions();
}

// --- events -------------------------------------------------------------------------------------------------------------

for (const id of ["question", "answer", "scale", "normalize"]) byId(id).addEventListener("input", later);
byId("rewards").addEventListener("change", () => begin(byId("rewards").value));
byId("group").addEventListener("change", () => begin(byId("rewards").value, byId("group").value));
byId("add").addEventListener("click", () => {
  state.completions.push("");
  drawCompletions();
  score();
});
byId("language").addEventListener("click", () => {
  state.language = state.language === "en" ? "zh" : "en";
  localStorage.setItem("language", state.language);
  speak();
});
themed();

async function lookForChanges() {
  try {
    const version = await ask("version");
    if (state.version !== null && version !== state.version && byId("rewards").value === state.own) {
      byId("weights").dataset.shape = "";
      state.weights = null;
      await score();
      byId("status").textContent ||= word("file-read", { time: new Date().toLocaleTimeString() });
    }
    state.version = version;
  } catch {
    byId("status").textContent = word("offline");
  }
  setTimeout(lookForChanges, 1000);
}

speak();
begin(location.hash.slice(1)).then(lookForChanges, (error) => {
  byId("status").textContent = word("error", { error: error.message });
  byId("status").className = "bad";
});
