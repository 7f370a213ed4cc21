/* What the console's pages need in the browser: the operator's time zone, figures that say when they are old, and forms
   that outlive a session. Served as it is; the policy of the admin runs nothing inline. */
"use strict";

(() => {
  // htmx would add a style element that the policy refuses.
  htmx.config.includeIndicatorStyles = false;
  htmx.config.allowScriptTags = false;
  htmx.config.timeout = 10000;
  // A box that the operator has ticked stays ticked when its table is refreshed.
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name) => name !== "checked";

  // --- Time zone: the server writes times in the zone that this cookie names -----------------------------------------

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  const cookie = (name) =>
    document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  const zoneIsNew = zone && cookie("citadel_zone") !== zone;
  if (zoneIsNew) {
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `citadel_zone=${zone}; path=/admin/; max-age=31536000; samesite=lax${secure}`;
  }

  const written = new Intl.DateTimeFormat("sv-SE", {
    dateStyle: "short", timeStyle: "medium", timeZone: zone || undefined,
  });

  // This page was made before the server knew the zone.
  const rewriteTimes = () => {
    for (const element of document.querySelectorAll("time[datetime]")) {
      if (/^\d{4}-\d\d-\d\d /.test(element.textContent)) {
        element.textContent = written.format(new Date(element.dateTime));
      }
    }
  };

  // --- Figures that are old say so -----------------------------------------------------------------------------------

  const OLD = 6000;
  let answeredAt = Date.now();
  let trouble = "";

  const say = (live) => {
    const age = Date.now() - answeredAt;
    let banner = document.getElementById("stale");
    if (document.hidden || age < OLD) {
      banner?.remove();
      live.classList.remove("c-stale");
      return;
    }
    if (!banner) {
      banner = document.createElement("div");
      banner.id = "stale";
      banner.className = "c-problem c-bad";
      banner.setAttribute("role", "alert");
      banner.append(document.createElement("h2"), document.createElement("p"));
      banner.lastChild.textContent = trouble || "Citadel does not answer this page.";
      live.before(banner);
    }
    live.classList.add("c-stale");
    banner.firstChild.textContent = "These figures are old";
    const since = written.format(new Date(answeredAt));
    const text = `${trouble || "Citadel does not answer this page."} What is below is of ${since}.`;
    if (banner.lastChild.textContent !== text) banner.lastChild.textContent = text;
  };

  const watch = (live) => {
    live.addEventListener("htmx:afterRequest", (event) => {
      if (event.target !== live) return;
      const status = event.detail.xhr.status;
      if (event.detail.successful) answeredAt = Date.now();
      else if (status === 503) trouble = "PostgreSQL does not answer.";
      else if (status === 403) trouble = "You may not see this any more.";
      else trouble = status ? `Citadel answers with an error (${status}).` : "Citadel does not answer this page.";
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      answeredAt = Math.max(answeredAt, Date.now() - OLD + 3000); // its first answer gets a moment to come
      htmx.trigger(document.body, "citadel:visible");
    });
    setInterval(() => say(live), 1000);
  };

  // --- Forms whose session has ended ---------------------------------------------------------------------------------

  const KEPT = "citadel:sent";
  const kept = (control) =>
    control.name && !control.disabled && !["hidden", "password", "file", "submit", "button"].includes(control.type);

  const keep = (form) => {
    const fields = [...form.elements].filter(kept).map((control) => ({
      name: control.name,
      value: control.value,
      on: control.type === "select-multiple" ? [...control.selectedOptions].map((o) => o.value) : control.checked,
    }));
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ path: location.pathname, fields }));
    } catch {
      // A browser that keeps nothing: the operator is told all the same, and types it again.
    }
  };

  const fill = (control, field) => {
    if (control.type === "select-multiple") {
      for (const option of control.options) option.selected = field.on.includes(option.value);
    } else if (control.type === "checkbox" || control.type === "radio") control.checked = field.on;
    else control.value = field.value;
    control.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const bringBack = (sent) => {
    for (const field of sent.fields) {
      const named = document.querySelectorAll(`form[method=post] [name="${CSS.escape(field.name)}"]`);
      const boxes = ["checkbox", "radio"];
      for (const control of named) {
        if (kept(control) && (!boxes.includes(control.type) || control.value === field.value)) fill(control, field);
      }
    }
  };

  const afterLogIn = () => {
    const notice = document.getElementById("unfinished");
    const sent = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    if (notice) {
      document.cookie = "citadel_unfinished=; path=/admin/; max-age=0";
      if (sent?.path === location.pathname) {
        bringBack(sent);
        notice.querySelector("[data-back]").hidden = false;
      }
    }
    if (!document.getElementById("login-form")) sessionStorage.removeItem(KEPT);
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "post" && !["login-form", "logout-form"].includes(form.id)) keep(form);
  });

  // --- Keyboard and screen reader: what Unfold lets only a mouse reach ------------------------------------------------

  const CALLED = {
    dock_to_right: "Show or hide the sidebar",
    close: "Close the sidebar",
    "changelist-filter-close": "Close the filters",
    castle: "Dashboard",
    search: "Search",
    more_vert: "Actions",
    more_horiz: "Actions",
  };

  // A control that shows nothing but a symbol gets its name; the symbol's own letters are nothing to read out. The one
  // whose symbol is filled in later chooses the theme.
  const nameOfSymbol = (icon) => {
    const control = icon.closest("a, button, [x-on\\:click]");
    if (!control) return;
    const others = [...control.querySelectorAll(".material-symbols-outlined")].map((one) => one.textContent);
    const text = others.reduce((left, one) => left.replace(one, ""), control.textContent).trim();
    const word = icon.textContent.trim();
    if ((!text || control === icon) && !control.hasAttribute("aria-label")) {
      control.setAttribute("aria-label", CALLED[word] ?? (word.replaceAll("_", " ") || "Theme"));
    }
  };

  const reachable = (root) => {
    for (const icon of root.querySelectorAll(".material-symbols-outlined")) {
      nameOfSymbol(icon);
      if (!icon.hasAttribute("x-on:click")) icon.setAttribute("aria-hidden", "true");
    }
    for (const element of root.querySelectorAll("[x-on\\:click]:not(a[href], button, input, select, label, tr)")) {
      element.tabIndex = 0;
      element.setAttribute("role", "button");
      if (element.id in CALLED) element.setAttribute("aria-label", CALLED[element.id]);
      element.addEventListener("keydown", (event) => {
        if (event.target !== element || (event.key !== "Enter" && event.key !== " ")) return;
        event.preventDefault();
        element.click();
      });
    }
  };

  const landmarks = () => {
    const main = document.getElementById("main") ?? document.getElementById("page");
    if (!main) return;
    main.setAttribute("role", "main");
    if (!document.getElementById("content")) return;
    const skip = document.createElement("a");
    skip.className = "c-skip";
    skip.href = "#content";
    skip.textContent = "Skip to the content";
    document.body.prepend(skip);
    document.getElementById("content").tabIndex = -1;
  };

  document.addEventListener("DOMContentLoaded", () => {
    reachable(document.body);
    landmarks();
    if (zoneIsNew) rewriteTimes();
    for (const element of document.querySelectorAll("[data-zone]")) element.textContent = zone;
    const live = document.querySelector("[data-live]");
    if (live) watch(live);
    afterLogIn();
  });
})();
