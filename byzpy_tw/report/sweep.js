"use strict";
// The page of a sweep.  Without this it has everything but the curves: it draws them, opens
// the cell that a link leads to, and copies commands.
(() => {
  const { element, legend, drawCharts, watchScrolling } = byzpy;
  const { charts } = JSON.parse(document.getElementById("data").textContent);
  const holder = document.getElementById("curves");
  const series = [...new Map(charts.flatMap((c) => c.series).map((s) => [s.name, s])).values()];
  holder.before(legend(series));
  drawCharts(holder, charts.map((spec) => ({ ...spec, key: false })));
  watchScrolling(document.querySelector(".across"));
  function openTarget() {
    const found = location.hash && document.getElementById(location.hash.slice(1));
    if (found && found.tagName === "DETAILS") { found.open = true; found.scrollIntoView(); }
  }
  addEventListener("hashchange", openTarget);
  document.querySelectorAll("td a").forEach((link) =>
    link.addEventListener("click", () => setTimeout(openTarget)));
  openTarget();
  if (navigator.clipboard) document.querySelectorAll("pre").forEach((pre) => {
    const button = element("button", { type: "button", "aria-live": "polite" }, "copy");
    button.addEventListener("click", () => navigator.clipboard.writeText(pre.textContent).then(
      () => { button.textContent = "copied"; },
      () => { button.textContent = "select it by hand"; }));
    pre.after(button);
  });
})();
