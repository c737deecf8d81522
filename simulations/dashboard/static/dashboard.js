// The pages: the list of runs, one run, several runs compared. Every text is set as text, never as markup.

import { element, themed } from "../shared/page.js";
import { Chart, shown, spark } from "./charts.js";

const page = document.getElementById("page");
const live = document.getElementById("live");
let charts = [];
let source = null;
let ticket = 0; // of the page that is shown: an answer for an earlier one is dropped

async function ask(path, parameters = {}) {
  const answer = await fetch(`api/${path}?${new URLSearchParams(parameters)}`);
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

const when = (seconds) => (seconds ? new Date(1000 * seconds).toLocaleString() : "");
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const points = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;
const megabytes = (value) => `${(value / 1e6).toFixed(value < 1e7 ? 2 : 0)} MB`;
const runLink = (name) => `#/run/${encodeURIComponent(name)}`;
const sum = (values) => values.reduce((all, value) => all + (value ?? 0), 0);

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function follow(parameters, refresh) {
  source?.close();
  const mine = ticket;
  let busy = false;
  let again = false;
  const go = async () => {
    if (busy) return void (again = true);
    busy = true;
    try {
      await refresh();
    } catch (error) {
      if (mine === ticket) page.replaceChildren(element("p", { class: "bad", role: "alert" }, error.message));
    }
    busy = false;
    if (again) (again = false), go();
  };
  source = new EventSource(`api/changes?${new URLSearchParams(parameters)}`);
  source.onmessage = go;
  source.onopen = () => (live.textContent = "");
  source.onerror = () => (live.textContent = "not connected: is the command still running?");
}

// --- the list of runs ---------------------------------------------------------------------------------------------------

async function showList() {
  const mine = ++ticket;
  const chosen = new Set();
  const compare = element("button", { type: "button", disabled: true, onclick: () => (location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join("/")}`) }, "Compare");
  const body = element("tbody");
  const heads = ["", "run", "state", "round", "accuracy", "reward", "model", "method", "seed", "last event"];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name || element("span", { class: "quiet" }, "pick"))))), body);
  const pick = (name, on) => {
    on ? chosen.add(name) : chosen.delete(name);
    compare.disabled = chosen.size < 2;
  };
  const row = (run) => {
    const box = element("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, onchange: (event) => pick(run.name, event.target.checked) });
    box.checked = chosen.has(run.name);
    const name = element("td", { class: "name" }, run.error ? run.name : element("a", { href: runLink(run.name) }, run.name));
    const state = element("td", {}, element("span", { class: `state ${run.state}` }, run.state));
    if (run.error) return element("tr", {}, element("td"), name, state, element("td", { colspan: 7, class: "bad" }, run.error));
    const accuracy = run.before === null ? "–" : `${percent(run.before)} → ${percent(run.after)}`;
    const cells = [`${run.round} of ${run.rounds}`, accuracy].map((text) => element("td", {}, text));
    const rest = [run.model.split("/").at(-1), run.method, run.seed, when(run.updated)].map((text) => element("td", {}, String(text)));
    return element("tr", {}, element("td", {}, box), name, state, ...cells, element("td", {}, spark(run.rewards)), ...rest);
  };
  page.replaceChildren(element("h1", {}, "Runs"), element("p", {}, compare), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs" }, table));
  follow({}, async () => {
    const found = await ask("runs");
    if (mine !== ticket) return;
    document.getElementById("folder").textContent = found.folder;
    const rows = found.runs.sort((a, b) => b.begun - a.begun).map(row);
    body.replaceChildren(...rows);
    if (!rows.length) body.replaceChildren(element("tr", {}, element("td", { colspan: 10 }, "There are no runs here yet. Start one: fedgrpo simulate builtin")));
  });
}

// --- one run ------------------------------------------------------------------------------------------------------------

function headline(run) {
  const sampled = run.accuracy.sampled;
  const progress = run.state === "finished" ? `${run.round} rounds, finished.` : `Round ${run.round} of ${run.rounds}, ${run.state}.`;
  if (sampled.length < 2) return `${progress} Held-out accuracy has ${sampled.length ? `been measured once: ${percent(sampled[0].strict)}` : "not been measured yet"}.`;
  const [first, last] = [sampled[0], sampled.at(-1)];
  return `${progress} Sampled accuracy ${percent(first.strict)} → ${percent(last.strict)} of ${last.problems} held-out problems: ${points(last.gain)} points (95 % interval ${points(last.interval[0])} to ${points(last.interval[1])}).`;
}

function tiles(run) {
  const seconds = sum(run.of_round["round/seconds"]);
  const left = run.state === "running" && run.round ? `${duration((seconds / run.at.length) * (run.rounds - run.round))}, evaluations not counted` : "";
  const epsilon = Math.max(...run.people.map((client) => client.epsilon ?? -1));
  const given = [
    ["clients", run.clients],
    ["seconds in rounds", duration(seconds)],
    ["left", left],
    ["up, all clients", megabytes(sum(run.of_round["round/bytes-up"]))],
    ["down, all clients", megabytes(sum(run.of_round["round/bytes-down"]))],
    ["groups without signal", percent(run.means["groups/zero-variance-share"].at(-1))],
    ["refused updates", run.refused.length || ""],
    ["privacy spent (ε)", epsilon >= 0 ? shown(epsilon) : ""],
  ];
  return given.filter(([, value]) => value !== "" && value !== "–").map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
}

function accuracySeries(run) {
  const rounds = [...new Set([...run.accuracy.sampled, ...run.accuracy.greedy].map((point) => point.round))].sort((a, b) => a - b);
  const by = (decoding, field) => rounds.map((round) => run.accuracy[decoding].find((point) => point.round === round)?.[field] ?? null);
  return [
    rounds,
    [
      { label: "sampled, strict", values: by("sampled", "strict"), low: by("sampled", "low"), high: by("sampled", "high") },
      { label: "greedy, strict", values: by("greedy", "strict") },
      { label: "sampled, lenient", values: by("sampled", "lenient"), dash: [2, 4] },
      { label: "cut off", values: by("sampled", "truncated"), dash: [6, 3] },
    ],
  ];
}

const CLIENT_CHARTS = [
  ["reward/mean", "Reward of each client", "", "in its own units"],
  ["groups/zero-variance-share", "Groups without signal, by client", "%", ""],
];

async function showRun(name) {
  const mine = ++ticket;
  const heading = element("h1", {}, name);
  const state = element("span", { class: "state" });
  const said = element("p");
  const bar = element("progress", { "aria-label": "Rounds committed" });
  const facts = element("dl", { class: "tiles" });
  const grid = element("div", { class: "charts" });
  const select = element("select", { "aria-label": "Metric by client", onchange: () => refreshClients() });
  const make = (title, options) => {
    const chart = new Chart(title, options);
    charts.push(chart);
    grid.append(chart.figure);
    return chart;
  };
  const accuracy = make("Held-out accuracy", { unit: "%", note: "band: 95 % interval of the gain" });
  const ofClients = CLIENT_CHARTS.map(([metric, title, unit, note]) => [metric, make(title, { unit, note })]);
  const functions = make("Each reward function, mean over clients", { note: "in its own units" });
  const policy = make("Entropy and KL, mean over clients", { note: "nats per token" });
  const length = make("Completion length, mean over clients", { note: "tokens" });
  const cut = make("Completions cut off, mean over clients", { unit: "%" });
  const bytes = make("Bytes of a round, all clients", { note: "MB" });
  const seconds = make("Seconds of a round", { note: "s; phases: mean over clients" });
  const error = make("Aggregation error", { note: "relative to the exact mean" });
  const norm = make("Size of the global update", { note: "L2 norm" });
  const any = make("Any metric, by client", { control: select });
  const people = element("tbody");
  const events = element("ol", { class: "events", tabindex: 0, "aria-label": "Events, the last first" });
  const samples = element("div");
  const settings = element("div", { class: "settings" });
  const columns = [["client", ""], ["doing", ""], ["rounds", "n"], ["reward", "n"], ["without signal", "n"], ["weight", "n"], ["seconds", "n"], ["up", "n"], ["down", "n"], ["refused", "n"]];
  const clientTable = element("table", {}, element("thead", {}, element("tr", {}, ...columns.map(([text, kind]) => element("th", { class: kind, scope: "col" }, text)))), people);
  page.replaceChildren(
    heading, element("p", {}, state), said, bar, facts, grid,
    element("h2", {}, "Clients"), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Clients" }, clientTable),
    element("h2", {}, "Events"), events,
    element("h2", {}, "Samples: held-out completions before and after"), samples,
    element("h2", {}, "Settings that are not the defaults"), settings,
  );
  let metrics = "";

  async function refreshClients() {
    const wanted = [...ofClients, ...(select.value ? [[select.value, any]] : [])];
    const found = await Promise.all(wanted.map(([metric]) => ask("metric", { name, metric })));
    if (mine !== ticket) return;
    found.forEach((one, n) => wanted[n][1].set(one.at, Object.entries(one.clients).map(([label, values]) => ({ label, values }))));
  }

  const drawPeople = (run) =>
    people.replaceChildren(
      ...run.people.map((client) =>
        element("tr", {}, ...[client.name, client.doing, client.rounds, shown(client.reward), percent(client.silent), percent(client.share), shown(client.seconds), megabytes(client.bytes_up), megabytes(client.bytes_down), client.refused || ""].map((text, n) => element("td", { class: columns[n][1] }, String(text)))),
      ),
    );

  const refreshSamples = async () => {
    const found = await ask("samples", { name });
    if (mine !== ticket) return;
    const answer = (text, right) => element("div", {}, element("h3", {}, right), element("pre", {}, text));
    samples.replaceChildren(
      ...found.map((one) =>
        element("article", { class: "sample" }, element("p", {}, one.question), element("p", { class: "quiet" }, `expected ${one.answer}; ${one.client}, after round ${one.round}`),
          element("div", { class: "pair" }, answer(one.before, `before: ${one.right_before ? "right" : "wrong"}`), answer(one.after, `after: ${one.right_after ? "right" : "wrong"}`))),
      ),
    );
    if (!found.length) samples.replaceChildren(element("p", { class: "quiet" }, "There are none: real organisations keep their completions, and a simulation writes them with its first evaluation."));
  };

  follow({ run: name }, async () => {
    const run = await ask("run", { name });
    if (mine !== ticket) return;
    state.className = `state ${run.state}`;
    state.textContent = run.state;
    said.textContent = headline(run);
    bar.max = run.rounds;
    bar.value = run.round;
    facts.replaceChildren(...tiles(run));
    accuracy.set(...accuracySeries(run));
    const mean = (label, metric) => ({ label, values: run.means[metric] });
    functions.set(run.at, Object.entries(run.functions).map(([label, values]) => ({ label, values })));
    policy.set(run.at, [mean("entropy", "policy/entropy"), mean("KL", "policy/kl")]);
    length.set(run.at, [mean("length", "completion/mean-length")]);
    cut.set(run.at, [mean("cut off", "completion/truncated-share")]);
    const of = (label, metric, unit = 1) => ({ label, values: run.of_round[metric].map((value) => (value === null ? null : value / unit)) });
    bytes.set(run.at, [of("clients to server", "round/bytes-up", 1e6), of("server to clients", "round/bytes-down", 1e6)]);
    seconds.set(run.at, [of("round", "round/seconds"), mean("sampling", "seconds/generate"), mean("rewards", "seconds/reward"), mean("update", "seconds/update")]);
    error.set(run.at, [of("error", "aggregation/error")]);
    norm.set(run.at, [of("norm", "round/update-norm")]);
    if (metrics !== String(run.metrics)) {
      metrics = String(run.metrics);
      const was = select.value || "policy/grad-norm";
      select.replaceChildren(...run.metrics.map((metric) => element("option", { selected: metric === was }, metric)));
    }
    drawPeople(run);
    events.replaceChildren(...run.events.toReversed().map((event) => element("li", { class: event.event }, element("time", { datetime: new Date(1000 * event.time).toISOString() }, new Date(1000 * event.time).toLocaleTimeString()), event.text)));
    settings.replaceChildren(...Object.entries(run.settings).map(([key, value]) => element("div", {}, `${key} = ${value}`)));
    await Promise.all([refreshClients(), refreshSamples()]);
  });
}

// --- several runs ---------------------------------------------------------------------------------------------------------

async function showComparison(names) {
  const mine = ++ticket;
  const grid = element("div", { class: "charts" });
  const make = (title, options) => {
    const chart = new Chart(title, options);
    charts.push(chart);
    grid.append(chart.figure);
    return chart;
  };
  const shownCharts = [
    [make("Sampled accuracy", { unit: "%" }), (run) => run.accuracy.sampled.map((point) => [point.round, point.strict])],
    [make("Greedy accuracy", { unit: "%" }), (run) => run.accuracy.greedy.map((point) => [point.round, point.strict])],
    [make("Mean reward", { note: "over clients" }), (run) => run.at.map((round, n) => [round, run.means["reward/mean"][n]])],
    [make("Groups without signal", { unit: "%" }), (run) => run.at.map((round, n) => [round, run.means["groups/zero-variance-share"][n]])],
    [make("Entropy", { note: "nats per token" }), (run) => run.at.map((round, n) => [round, run.means["policy/entropy"][n]])],
    [make("Completion length", { note: "tokens" }), (run) => run.at.map((round, n) => [round, run.means["completion/mean-length"][n]])],
    [make("Bytes up so far", { note: "MB, all clients" }), (run) => run.at.map((round, n) => [round, sum(run.of_round["round/bytes-up"].slice(0, n + 1)) / 1e6])],
    [make("Seconds so far", { note: "s in rounds" }), (run) => run.at.map((round, n) => [round, sum(run.of_round["round/seconds"].slice(0, n + 1))])],
  ];
  const body = element("tbody");
  const heads = ["run", "state", "round", "accuracy", "gain", "settings of its own"];
  page.replaceChildren(element("h1", {}, `${names.length} runs compared`), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs compared" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))), body)), element("h2", {}, "Curves"), grid);
  follow({}, async () => {
    const runs = await Promise.all(names.map((name) => ask("run", { name })));
    if (mine !== ticket) return;
    const common = Object.entries(runs[0].settings).filter(([key, value]) => runs.every((run) => run.settings[key] === value)).map(([key]) => key);
    body.replaceChildren(
      ...runs.map((run) => {
        const last = run.accuracy.sampled.at(-1);
        const own = Object.entries(run.settings).filter(([key]) => !common.includes(key)).map(([key, value]) => `${key} = ${value}`);
        const cells = [`${run.round} of ${run.rounds}`, percent(run.after), last ? `${points(last.gain)} (${points(last.interval[0])} to ${points(last.interval[1])})` : "–", own.join(", ")];
        return element("tr", {}, element("td", { class: "name" }, element("a", { href: runLink(run.name) }, run.name)), element("td", {}, element("span", { class: `state ${run.state}` }, run.state)), ...cells.map((text) => element("td", {}, text)));
      }),
    );
    for (const [chart, points_of] of shownCharts) {
      const lines = runs.map((run) => [run.name, new Map(points_of(run))]);
      const x = [...new Set(lines.flatMap(([, line]) => [...line.keys()]))].sort((a, b) => a - b);
      chart.set(x, lines.map(([label, line]) => ({ label, values: x.map((round) => line.get(round) ?? null) })));
    }
  });
}

// --- which page ---------------------------------------------------------------------------------------------------------

function route() {
  charts = [];
  const [kind, ...rest] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  window.scrollTo(0, 0);
  if (kind === "run" && rest[0]) showRun(rest[0]);
  else if (kind === "compare" && rest.length > 1) showComparison(rest);
  else showList();
}

themed(() => charts.forEach((chart) => chart.redraw()));
addEventListener("hashchange", route);
route();
