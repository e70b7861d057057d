"use strict";

// Shows one replay's score, and fetches it again every other second while the replay goes on.

const AGAIN_MS = 2_000;
const RETRY_MS = 5_000;

const byId = (id) => document.getElementById(id);
const place = byId("scoreboard").dataset.place;
const whole = (number) => number.toLocaleString("en");
const SVG = "http://www.w3.org/2000/svg";
const MEASURES = { accuracy: "Accuracy", macro_f1: "Macro-F1", log_loss: "Log-loss", brier: "Brier", calibration_error: "Calibration error" };
let timer = null;

function fit(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const make = (name, attributes, ...children) => fit(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => fit(document.createElementNS(SVG, name), attributes, children);

/** A table from a head and rows of cells; a cell is text, or [text, class, share of shading 0..1]. */
function fill(table, head, rows) {
  const data = (cell) => {
    const [text, style, share] = Array.isArray(cell) ? cell : [cell];
    const element = make("td", style ? { class: style } : {}, text);
    if (share !== undefined) element.style.background = `color-mix(in srgb, var(--bar) ${Math.round(100 * share)}%, transparent)`;
    return element;
  };
  const titles = head.map((text) => make("th", { scope: "col" }, text));
  const body = rows.map(([title, ...cells]) => make("tr", {}, make("th", { scope: "row" }, title), ...cells.map(data)));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...body));
}

function scoreRows(scores) {
  return Object.entries(scores)
    .filter(([, score]) => score && score.rows)
    .map(([title, score]) => [title, whole(score.rows), ...Object.keys(MEASURES).map((name) => score[name].toFixed(3))]);
}

/** A line through [x, y] points, with its lowest, highest and last value. */
function curve(title, points, digits) {
  const values = points.map(([, y]) => y);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const x = (value) => 45 + (545 * (value - first)) / (last - first || 1);
  const y = (value) => 10 + 90 * (high === low ? 0.5 : (high - value) / (high - low));
  const svg = draw("svg", { viewBox: "0 0 600 125", role: "img", "aria-label": `${title}, now ${values.at(-1).toFixed(digits)}` });
  svg.append(draw("path", { class: "axis", d: "M45 10V100H590" }));
  svg.append(draw("text", { x: 0, y: 14 }, high.toFixed(digits)), draw("text", { x: 0, y: 104 }, low.toFixed(digits)));
  svg.append(draw("text", { x: 45, y: 118 }, whole(first)), draw("text", { x: 590, y: 118, "text-anchor": "end" }, `${whole(last)} answers`));
  svg.append(draw("polyline", { class: "curve", points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }));
  return make("figure", {}, make("figcaption", {}, `${title}: now ${values.at(-1).toFixed(digits)}`), svg);
}

function calibration(bins) {
  const svg = draw("svg", { viewBox: "0 0 320 235", role: "img", "aria-label": "Share that came true by given probability" });
  const x = (value) => 40 + 270 * value;
  const y = (value) => 205 - 195 * value;
  svg.append(draw("path", { class: "axis", d: "M40 10V205H310" }), draw("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }));
  for (const share of [0, 0.5, 1]) {
    svg.append(draw("text", { x: x(share), y: 220, "text-anchor": "middle" }, `${100 * share} %`));
    svg.append(draw("text", { x: 34, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
  }
  const most = Math.max(...bins.map((bin) => bin.rows));
  for (const bin of bins) {
    const title = `${whole(bin.rows)} flights: given ${(100 * bin.confidence).toFixed(0)} %, came true ${(100 * bin.accuracy).toFixed(0)} %`;
    const place = { cx: x(bin.confidence), cy: y(bin.accuracy), r: 2 + 7 * Math.sqrt(bin.rows / most) };
    svg.append(draw("circle", place, draw("title", {}, title)));
  }
  svg.append(draw("polyline", { class: "curve", points: bins.map((bin) => `${x(bin.confidence).toFixed(1)},${y(bin.accuracy).toFixed(1)}`).join(" ") }));
  return svg;
}

function show(score) {
  const closed = score.Answered + score.Rejected;
  const running = score.State === "running";
  byId("status").classList.toggle("busy", running);
  byId("status").textContent = `${{ running: "Running", done: "Done" }[score.State] || "Cut off"}: ${whole(score.Sent)} of ${whole(score.Flights)} flights sent, ${whole(score.Answered)} answered`;
  byId("progress").value = closed / score.Flights;
  const about = {
    Departures: `${score.First} to ${score.Last}`,
    Rate: `${score.Rate} flights a second`,
    Model: Object.keys(score.ModelVersions).join(", ") || "no answer yet",
    Rejected: whole(score.Rejected),
    Updated: new Date(score.UpdatedAt).toLocaleTimeString("en"),
  };
  byId("about").replaceChildren(
    ...Object.entries(about).map(([title, text]) => make("div", {}, make("dt", {}, title), make("dd", {}, text))),
  );
  const answered = score.SoFar !== null;
  for (const id of ["figures", "course", "buckets", "carriers"]) byId(id).hidden = !answered;
  if (!answered) return;
  const head = ["", "Flights", ...Object.values(MEASURES)];
  const last = `Last ${whole(score.Window.rows)}`;
  fill(byId("scores"), head, scoreRows({ "So far": score.SoFar, [last]: score.Window, "On the holdout": score.Expected }));
  fill(byId("groups"), head, scoreRows({ ...score.ByCarrier, ...score.ByOrigin }));
  byId("curves").replaceChildren(
    curve("Accuracy", score.Curve.map(([x, y]) => [x, y]), 3),
    curve("Log-loss", score.Curve.map(([x, , y]) => [x, y]), 3),
  );
  byId("calibration").replaceChildren(calibration(score.Calibration));
  const labels = JSON.parse(byId("confusion").dataset.labels);
  const rows = score.Confusion.map((counts, happened) => {
    const all = counts.reduce((sum, count) => sum + count, 0) || 1;
    return [labels[happened], ...counts.map((count, predicted) => [whole(count), predicted === happened ? "right" : "", count / all])];
  });
  fill(byId("confusion"), ["Happened ↓  predicted →", ...labels.map((label) => label.replace(/ \(.*/, ""))], rows);
}

function list(replays, chosen) {
  const options = replays.map((replay) => {
    const text = `${new Date(replay.StartedAt).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}: ${whole(replay.Flights)} flights, ${replay.State}`;
    const option = make("option", { value: replay._id }, text);
    option.selected = replay._id === chosen;
    return option;
  });
  byId("replay").replaceChildren(...options);
}

async function refresh(replay) {
  clearTimeout(timer);
  let again = RETRY_MS;
  try {
    const query = replay ? `?replay=${encodeURIComponent(replay)}` : "";
    const response = await fetch(place + query);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    byId("problem").hidden = true;
    list(answer.replays, answer.score?._id);
    if (answer.score) {
      show(answer.score);
      if (answer.score.State === "running") again = AGAIN_MS;
    } else {
      byId("status").textContent = "No replay yet. Start one: airflow dags trigger flight_delay_replay";
    }
  } catch (error) {
    byId("problem").textContent = `The score cannot be fetched: ${error.message}. This page tries again.`;
    byId("problem").hidden = false;
  }
  timer = setTimeout(() => refresh(replay), again);
}

byId("replay").addEventListener("change", (event) => {
  history.replaceState(null, "", `?replay=${encodeURIComponent(event.target.value)}`);
  refresh(event.target.value);
});
refresh(new URLSearchParams(location.search).get("replay"));
