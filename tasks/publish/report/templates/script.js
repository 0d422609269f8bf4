"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const remember = (value) => { try { localStorage.setItem("commonfleet-theme", value); } catch { /* a file may have no storage */ } };
  const remembered = () => { try { return localStorage.getItem("commonfleet-theme"); } catch { return null; } };
  const wished = location.hash === "#dark" ? "dark" : location.hash === "#light" ? "light" : remembered();
  if (wished === "dark" || wished === "light") root.dataset.theme = wished;

  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const toggle = document.getElementById("theme");
  const label = () => { toggle.textContent = dark() ? "Light" : "Dark"; };
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
  });
  label();

  const copied = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* no permission on file: pages in some browsers */ }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) {
      const done = await copied(button.closest("[data-copied]").querySelector("pre").textContent);
      button.textContent = done ? "Copied" : "Select it by hand";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    }
    const all = event.target.closest("button[data-all]");
    if (all) {
      const open = all.dataset.all === "open";
      for (const one of all.closest("section").querySelectorAll("details")) one.open = open;
    }
  });

  const told = document.getElementById("told");
  const tell = (event) => {
    const title = event.target.closest(".b")?.querySelector("title");
    if (title) told.textContent = title.textContent;
  };
  const lanes = document.querySelector(".lanes");
  if (lanes && told) {
    lanes.addEventListener("pointerover", tell);
    lanes.addEventListener("click", tell);
    document.getElementById("zoom").addEventListener("input", (event) => {
      lanes.style.setProperty("--zoom", event.target.value);
    });
  }
  // A link to something folded must open what folds it.
  const reveal = () => {
    let node = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    for (; node; node = node.parentElement) if (node.localName === "details") node.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
