"use strict";

// Fetches the page again every 5 s while somebody looks, and replaces what it shows.

const AGAIN_MS = 5_000;
const lost = document.getElementById("lost");

async function again() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href, { signal: AbortSignal.timeout(15_000) });
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("live");
      document.getElementById("live").replaceWith(document.adoptNode(fresh));
      lost.hidden = true;
    } catch {  // no connection, or another page than this one
      lost.hidden = false;
    }
  }
  setTimeout(again, AGAIN_MS);
}

setTimeout(again, AGAIN_MS);
