// Charts: uPlot with a key that tells values, and the same numbers as a table for those who do not see the picture.

import { element } from "../shared/page.js";

const MANY = 12; // more series than this are drawn alike, with their mean above them

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function shown(value, unit = "") {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 10 || size === 0 ? value.toFixed(1) : value.toPrecision(2);
}

const mean = (series, at) => {
  const found = series.map((one) => one.values[at]).filter((value) => value !== null && value !== undefined);
  return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
};

export class Chart {
  // A figure. `set` gives it its numbers: x, and series of {label, values, dash, low, high}; null where there is none.
  constructor(title, { unit = "", note = "", zero = true, control = null } = {}) {
    this.unit = unit;
    this.title = title;
    this.zero = zero;
    this.hidden = new Set();
    this.plot = element("div", { class: "plot", role: "img" });
    this.key = element("ul", { class: "key" });
    this.table = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Values: ${title}` });
    this.details = element("details", { ontoggle: () => this.#fillTable() }, element("summary", {}, "Values"), this.table);
    const heading = element("figcaption", {}, element("span", {}, title), control, element("span", { class: "unit" }, note || unit));
    this.figure = element("figure", {}, heading, this.plot, this.key, this.details);
    new ResizeObserver(() => this.drawn?.setSize(this.#size())).observe(this.plot);
  }

  set(x, series) {
    const given = series.filter((one) => one.values.some((value) => value !== null && value !== undefined));
    this.x = x;
    this.many = given.length > MANY;
    this.series = this.many ? [...given, { label: "mean", values: x.map((_, at) => mean(given, at)), mean: true }] : given;
    const shape = JSON.stringify([this.many, this.series.map((one) => [one.label, !!one.low])]);
    if (!given.length || !x.length) {
      this.drawn?.destroy();
      this.drawn = this.shape = null;
      this.plot.classList.add("none");
      this.plot.replaceChildren(element("p", { class: "quiet" }, "nothing yet"));
      this.key.replaceChildren();
      return;
    }
    this.plot.classList.remove("none");
    if (shape === this.shape) this.drawn.setData(this.#data());
    else this.#draw();
    this.shape = shape;
    this.#label();
    this.#tell(null);
    this.#fillTable();
  }

  redraw() {
    if (this.drawn) this.#draw();
  }

  #data() {
    const bands = this.series.flatMap((one) => (one.low ? [one.high, one.low] : []));
    return [this.x, ...this.series.map((one) => one.values), ...bands];
  }

  #size() {
    return { width: Math.max(120, this.plot.clientWidth), height: 205 };
  }

  #draw() {
    this.drawn?.destroy();
    this.plot.replaceChildren();
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("quiet"), grid, ticks: grid, font: "12px system-ui" };
    const few = this.x.length < 40;
    const lines = this.series.map((one, at) => ({
      label: one.label,
      show: !this.hidden.has(one.label),
      stroke: colour(this.many && !one.mean ? "c7" : `c${one.mean ? 1 : at % 8}`),
      alpha: this.many && !one.mean ? 0.3 : 1,
      width: one.mean ? 2.5 : this.many ? 1 : 2,
      dash: one.dash ?? (at >= 8 && !this.many ? [6, 3] : undefined),
      points: { show: few && !this.many, size: 5 },
      spanGaps: true,
    }));
    const bands = [];
    this.series.forEach((one, at) => {
      if (!one.low) return;
      const next = lines.length + 1;
      lines.push(...[0, 1].map(() => ({ stroke: "transparent", points: { show: false }, spanGaps: true })));
      bands.push({ series: [next, next + 1], fill: `${colour(`c${at % 8}`)}33` });
    });
    this.drawn = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false } },
        scales: {
          x: { time: false },
          y: { range: (_, low, high) => (this.unit === "%" ? [0, 1] : this.#range(low, high)) },
        },
        axes: [
          { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], space: 40 },
          { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => (this.unit === "%" ? `${Math.round(100 * tick)} %` : tick.toLocaleString("en", { maximumSignificantDigits: 4 }))) },
        ],
        series: [{}, ...lines],
        bands,
        hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx)] },
      },
      this.#data(),
      this.plot,
    );
    this.#keys();
  }

  #range(low, high) {
    if (low === null || high === null) return [0, 1];
    const bottom = this.zero ? Math.min(0, low) : low;
    const room = (high - bottom || Math.abs(high) || 1) * 0.06;
    return [bottom < 0 || !this.zero ? bottom - room : 0, high + room];
  }

  #keys() {
    const own = this.many ? this.series.filter((one) => one.mean) : this.series;
    const others = this.series.length - own.length;
    this.values = own.map(() => element("b"));
    this.keyed = own;
    this.key.replaceChildren(
      ...own.map((one, at) =>
        element("li", {}, element("button", { type: "button", "aria-pressed": String(!this.hidden.has(one.label)), onclick: (event) => this.#toggle(one, event.currentTarget) }, element("i", { class: `c${one.mean ? 1 : at % 8}` }), one.label, this.values[at])),
      ),
      others ? element("li", { class: "quiet" }, `${others} lines; names and values in the table`) : "",
    );
  }

  #toggle(one, button) {
    const show = this.hidden.has(one.label);
    show ? this.hidden.delete(one.label) : this.hidden.add(one.label);
    button.setAttribute("aria-pressed", String(show));
    this.drawn.setSeries(this.series.indexOf(one) + 1, { show });
  }

  #tell(at) {
    const place = at ?? this.x.length - 1;
    this.keyed?.forEach((was, n) => {
      const one = this.series.find((other) => other.label === was.label);
      const known = at === null || at === undefined ? one?.values.findLast((value) => value !== null) : one?.values[place];
      this.values[n].textContent = shown(known, this.unit);
    });
  }

  #label() {
    const last = this.series.slice(0, 8).map((one) => `${one.label} ${shown(one.values.findLast((value) => value !== null), this.unit)}`);
    this.plot.setAttribute("aria-label", `${this.title}, rounds ${this.x[0]} to ${this.x.at(-1)}. Last values: ${last.join(", ")}.`);
  }

  #fillTable() {
    if (!this.details.open || !this.x) return;
    const from = Math.max(0, this.x.length - 100);
    const head = element("tr", {}, element("th", { class: "n" }, "round"), ...this.series.map((one) => element("th", { class: "n" }, one.label)));
    const rows = this.x.slice(from).map((round, n) => element("tr", {}, element("td", { class: "n" }, String(round)), ...this.series.map((one) => element("td", { class: "n" }, shown(one.values[from + n], this.unit)))));
    this.table.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows.reverse())));
  }
}

export function spark(values) {
  const known = values.filter((value) => value !== null);
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("class", "spark");
  made.setAttribute("viewBox", "0 0 90 20");
  made.setAttribute("aria-hidden", "true");
  if (known.length < 2) return made;
  const low = Math.min(...known, 0);
  const high = Math.max(...known) - low || 1;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", known.map((value, at) => `${at ? "L" : "M"}${(2 + (86 * at) / (known.length - 1)).toFixed(1)} ${(18 - (16 * (value - low)) / high).toFixed(1)}`).join(""));
  made.append(path);
  return made;
}
