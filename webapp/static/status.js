"use strict";

// Fetches the page again every 5 s while somebody looks, and replaces what it shows.

const AGAIN_MS = 5_000;

async function again() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("live");
      if (fresh) document.getElementById("live").replaceWith(document.adoptNode(fresh));
    } catch {
      document.title = "No connection";  // what is shown says of when it is
    }
  }
  setTimeout(again, AGAIN_MS);
}

setTimeout(again, AGAIN_MS);
