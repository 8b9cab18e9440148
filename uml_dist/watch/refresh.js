"use strict";
// Replaces the parts of the page that have changed on the server, so that nothing flickers and nothing scrolls.
const known = new Map();
for (const part of document.querySelectorAll("[data-part]")) known.set(part.id, part.outerHTML);
const notice = document.getElementById("lost");
let busy = false;
let timer;

function replaceParts(fresh) {
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const text = part.outerHTML;
    const old = document.getElementById(part.id);
    if (!old || known.get(part.id) === text) continue;
    known.set(part.id, text);
    const open = old.querySelector("details[open]") !== null;
    for (const details of part.querySelectorAll("details")) details.open = open;
    old.replaceWith(document.adoptNode(part));
  }
}

async function refresh() {
  clearTimeout(timer);
  if (!document.hidden && !busy) {
    busy = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(30000) });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        document.title = fresh.title;
        replaceParts(fresh);
      }
      notice.textContent = answer.status === 404 ? "This run is no longer there." : "The server cannot show this page.";
      notice.hidden = answer.ok;
    } catch {
      notice.textContent = "The server does not answer. This page shows what was last known.";
      notice.hidden = false;
    }
    busy = false;
  }
  timer = setTimeout(refresh, REFRESH_SECONDS * 1000);
}

timer = setTimeout(refresh, REFRESH_SECONDS * 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
