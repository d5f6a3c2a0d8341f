// Keeps an open page up to date. Without it everything still works: reload instead.
"use strict";

(() => {
  const SETTLE_MS = 150;
  const NEAR_PX = 200;
  if (!document.querySelector("[data-live]")) return;

  let events = null;
  let timer = null;
  let loading = false;
  let again = false;

  // Puts the fresh children in place and keeps those that did not change, so that a screen
  // reader speaks only what is new.
  function mergeList(shown, fresh) {
    const wanted = new Set([...fresh.children].map((child) => child.id));
    for (const child of [...shown.children]) {
      if (!wanted.has(child.id)) child.remove();
    }
    let place = shown.firstElementChild;
    for (const child of [...fresh.children]) {
      const known = [...shown.children].find((other) => other.id === child.id);
      const same = known && known.outerHTML === child.outerHTML;
      const node = same ? known : child;
      if (known && !same) {
        if (known === place) place = place.nextElementSibling;
        known.remove();
      }
      if (node === place) place = place.nextElementSibling;
      else shown.insertBefore(node, place);
    }
  }

  function merge(fresh) {
    for (const shown of document.querySelectorAll("[data-live]")) {
      const match = fresh.getElementById(shown.id);
      if (!match) continue;
      if (shown.dataset.live === "list") mergeList(shown, match);
      else if (shown.innerHTML !== match.innerHTML) shown.replaceChildren(...match.childNodes);
    }
  }

  async function refresh() {
    if (loading) {
      again = true;
      return;
    }
    loading = true;
    try {
      const answer = await fetch(location.pathname + location.search);
      if (answer.redirected) {
        location.assign(answer.url);
      } else if (answer.ok) {
        const page = document.documentElement;
        const atEnd = page.scrollHeight - window.innerHeight - window.scrollY < NEAR_PX;
        merge(new DOMParser().parseFromString(await answer.text(), "text/html"));
        if (atEnd) window.scrollTo(0, page.scrollHeight);
      }
    } catch {
      // The node is not there at the moment; the event stream tries again by itself.
    }
    loading = false;
    if (again) {
      again = false;
      soon();
    }
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(refresh, SETTLE_MS);
  }

  function listen() {
    events = new EventSource("/v1/events");
    events.onopen = soon;
    events.onmessage = (message) => {
      const notice = JSON.parse(message.data);
      const here = document.querySelector("[data-group]");
      if (here && notice.group && notice.group !== here.dataset.group) return;
      if (notice.type !== "stopping") soon();
    };
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      if (events) events.close();
      events = null;
    } else if (!events) {
      listen();
    }
  });
  if (!document.hidden) listen();
})();
