// What has left an organisation, message by message. Every text is set as text, never as markup.

import { element, themed } from "../shared/page.js";
import { shown } from "./charts.js";

const page = document.getElementById("page");
const live = document.getElementById("live");
const open = new Set(); // numbers of the messages whose fields are shown

const bytes = (count) => (count < 1e4 ? `${count} B` : `${(count / 1e6).toFixed(2)} MB`);

function tiles(record) {
  const given = [
    ["messages that left", record.sent],
    ["held back or rehearsed", record.messages - record.sent],
    ["bytes that left", bytes(record.bytes)],
    ["to", record.destinations.join(", ") || "–"],
    ["under policy", record.policies.join(", ") || "–"],
    ["in answer to", Object.entries(record.answers).map(([kind, count]) => `${kind} ${count}`).join(", ") || "–"],
  ];
  return given.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
}

function fieldsOf(message) {
  const rows = message.fields.map((field) =>
    element("tr", {}, ...[field.name, field.type, field.bytes, field.norm === null ? "" : shown(field.norm), field.value ?? "", (field.sha256 ?? "").slice(0, 16)].map((text, n) => element("td", { class: n === 2 || n === 3 ? "n" : "" }, String(text)))),
  );
  const heads = ["field", "type", "bytes", "norm", "value", "SHA-256"].map((text, n) => element("th", { scope: "col", class: n === 2 || n === 3 ? "n" : "" }, text));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Fields of message ${message.number}` }, table);
}

function messageOf(message) {
  const when = new Date(1000 * message.time).toLocaleString();
  const way = message.sent ? `sent to ${message.to}` : `not sent; would go to ${message.to}`;
  const details = element("details", { ontoggle: (event) => (event.target.open ? open.add(message.number) : open.delete(message.number)) });
  details.append(element("summary", {}, `${message.number ?? "–"}  ${when}  answer to ${message.answers}, ${way}${message.known ? "" : " (as configured)"}, ${bytes(message.bytes)}`), fieldsOf(message));
  details.open = open.has(message.number);
  return element("li", {}, details);
}

async function refresh() {
  const answer = await fetch("api/egress");
  const record = await answer.json();
  if (!answer.ok) return page.replaceChildren(element("p", { class: "bad", role: "alert" }, record.error));
  const missing = record.missing.length ? element("p", { class: "bad", role: "alert" }, `Messages are missing from the record: ${record.missing.join(", ")}. Somebody took them out.`) : null;
  page.replaceChildren(
    element("h1", {}, `${record.name}: what has left`),
    element("p", { class: "quiet" }, `From ${record.record}: every message is recorded before it leaves.`),
    ...(missing ? [missing] : []),
    element("dl", { class: "tiles" }, ...tiles(record)),
    element("h2", {}, "Messages, the last first"),
    record.last.length ? element("ol", { class: "messages" }, ...record.last.toReversed().map(messageOf)) : element("p", {}, "Nothing has left yet. To see what would: fedgrpo client egress FILE --dry-run"),
  );
}

themed();
const source = new EventSource("api/changes");
source.onmessage = refresh;
source.onopen = () => (live.textContent = "");
source.onerror = () => (live.textContent = "not connected: is the command still running?");
