"use strict";

// Sends the form without a reload, then holds a long poll open until the prediction is there.

const PATIENCE_MS = 10_000; // then the page says that no answer came, and keeps looking
const GIVE_UP_MS = 600_000;
const LONGEST_WAIT_S = 20;
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 5_000;

const form = document.getElementById("flight");
const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let current = null; // the AbortController of the request that the page is about

function say(text, busy = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("busy", busy);
}

/** On a phone what came out lies below the form, out of sight. */
function reveal() {
  const outcome = byId("outcome");
  if (outcome.getBoundingClientRect().top > 0.6 * window.innerHeight) outcome.scrollIntoView();
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (text) reveal();
}

function showFieldErrors(errors) {
  for (const input of form.querySelectorAll("input")) {
    const found = errors.find((error) => error.field === input.name);
    const place = byId(`${input.name}-error`);
    place.textContent = found ? found.message.replace(input.name, input.labels[0].textContent) : "";
    place.hidden = !found;
    if (found) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
  form.querySelector("[aria-invalid]")?.focus();
}

const WEATHER = /^Origin(Temperature|Humidity|Wind|Precipitation|Pressure|Visibility)/;
const UNSEEN = { Carrier: "carrier", Origin: "origin", Dest: "destination", Route: "route" };

/** The departure conditions, in a few words. */
function conditionsOf(flight) {
  const time = (hhmm) => `${hhmm.slice(0, 2)}:${hhmm.slice(2)}`;
  const known = [];
  if (flight.CRSDepTime) known.push(`scheduled ${time(flight.CRSDepTime)}${flight.CRSArrTime ? ` to ${time(flight.CRSArrTime)}` : ""}`);
  if (Object.keys(flight).some((name) => WEATHER.test(name))) {
    const degrees = flight.OriginTemperature;
    known.push(`weather in ${flight.Origin}${degrees === undefined ? "" : ` (${Math.round(degrees)} °F)`}`);
  }
  if (flight.DestGain7Days !== undefined) known.push(`recent delays into ${flight.Dest}`);
  return known.join(", ") || "nothing for this day";
}

function show(answer, startedAt) {
  const flight = answer.prediction;
  const [year, month, day] = flight.FlightDate.split("-").map(Number);
  const date = new Date(Date.UTC(year, month - 1, day));
  const dateText = date.toLocaleDateString("en", { dateStyle: "long", timeZone: "UTC" });
  byId("flight-title").textContent =
    `${flight.Carrier} ${flight.FlightNum ?? "flight"}, ${flight.Origin} to ${flight.Dest}, ${dateText}, departure delay ${flight.DepDelay} min`;
  byId("label").textContent = answer.label;
  for (const row of document.querySelectorAll("[data-bucket]")) {
    const bucket = Number(row.dataset.bucket);
    const share = flight.Probability[bucket];
    row.classList.toggle("winner", bucket === flight.Prediction);
    row.querySelector(".chosen").hidden = bucket !== flight.Prediction; // also for screen readers
    row.querySelector(".percent").textContent = `${(100 * share).toFixed(1)} %`;
    row.querySelector(".bar span").style.width = `${100 * share}%`;
  }
  const unseen = (answer.unseen || []).map((name) => `${UNSEEN[name] || name} ${flight[name]}`);
  byId("unseen").hidden = unseen.length === 0;
  byId("unseen").textContent =
    `The model never saw ${unseen.join(", ")} in training: its prediction uses the other fields and is less certain.`;
  const ms = performance.now() - startedAt;
  byId("took").textContent = ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
  byId("distance").textContent = `${Math.round(flight.Distance).toLocaleString("en")} miles`;
  byId("conditions").textContent = conditionsOf(flight);
  byId("model").textContent = flight.ModelVersion;
  byId("request-id").textContent = answer.id;
  say("");
  complain("");
  byId("prediction").hidden = false;
  reveal();
}

async function poll(place, id, startedAt, signal) {
  const acceptedAt = performance.now();
  const waited = () => performance.now() - acceptedAt;
  const tellThatNoneCame = setTimeout(() => {
    if (signal.aborted) return;
    say("Still waiting…", true);
    complain(
      "No prediction came within 10 seconds. The request is accepted and kept, so its answer will come when the " +
        `predictor is back; this page keeps looking. Request ${id}.`,
    );
  }, PATIENCE_MS);
  try {
    while (waited() < GIVE_UP_MS) {
      const askedAt = performance.now();
      let problem = "";
      try {
        const response = await fetch(`${place}?wait=${LONGEST_WAIT_S}`, { signal });
        const answer = await response.json();
        if (response.ok && answer.status === "OK") return show(answer, startedAt);
        if (response.ok && answer.status === "REJECTED") {
          const field = answer.field ? `, field ${answer.field}` : "";
          say("");
          return complain(`The predictor rejected this request: ${answer.reason}${field}.`);
        }
        if (!response.ok) problem = answer.message;
      } catch (error) {
        if (signal.aborted) return undefined;
        problem = "The web app does not answer";
      }
      if (problem) complain(`${problem}. The request was accepted; this page keeps looking.`);
      // A busy server, or one that is away, answers early: leave it time, the more the longer this takes.
      const rest = Math.min(Math.max(RETRY_MS, waited() / 10), LONGEST_RETRY_MS);
      if (performance.now() - askedAt < RETRY_MS) await pause(rest);
      if (signal.aborted) return undefined;
    }
    say("");
    complain(`No prediction came within 10 minutes; this page has stopped looking. Request ${id}.`);
  } finally {
    clearTimeout(tellThatNoneCame);
  }
  return undefined;
}

async function submit(event) {
  event.preventDefault();
  if (byId("submit").getAttribute("aria-disabled") === "true") return;
  current?.abort();
  current = new AbortController();
  const { signal } = current;
  byId("submit").setAttribute("aria-disabled", "true");
  byId("prediction").hidden = true;
  complain("");
  showFieldErrors([]);
  say("Sending…", true);
  const startedAt = performance.now();
  let accepted = null;
  try {
    const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), signal });
    const answer = await response.json();
    if (response.status === 202) {
      accepted = { place: response.headers.get("Location"), id: answer.id };
    } else {
      const shown = (answer.errors || []).filter((error) => form.elements[error.field]);
      say(shown.length ? "Some fields need another value." : "");
      if (!shown.length) complain(response.status === 503 ? `Not available just now: ${answer.message}.` : `${answer.message}.`);
      showFieldErrors(shown);
    }
  } catch {
    say("");
    complain("The web app cannot be reached; nothing was sent. Try again in a moment.");
  } finally {
    byId("submit").removeAttribute("aria-disabled");
  }
  if (!accepted) return;
  say("Accepted, waiting for the prediction…", true);
  await poll(accepted.place, accepted.id, startedAt, signal);
}

/** Shows the name of a code that the list knows below it. */
function nameCode(input) {
  const option = [...input.list.options].find((each) => each.value === input.value.trim().toUpperCase());
  const hint = byId(`${input.name}-hint`);
  hint.dataset.plain ??= hint.textContent;
  hint.textContent = option?.textContent || hint.dataset.plain;
}

form.addEventListener("submit", submit);
const codes = form.querySelectorAll("input[list]");
for (const input of codes) {
  nameCode(input);
  input.addEventListener("input", () => nameCode(input));
}
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => {
    const flight = JSON.parse(button.dataset.flight);
    for (const input of form.querySelectorAll("input")) input.value = flight[input.name] ?? "";
    codes.forEach(nameCode);
    showFieldErrors([]);
  });
}
