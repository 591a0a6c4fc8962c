"use strict";
// Charts of curves over rounds, drawn by uPlot, and the helpers that every page shares.
// Nothing here makes HTML of a string: text becomes text nodes and attributes.
const byzpy = (() => {
  const missing = (value) => value === null || value === undefined;

  // element("p.note", { id: "a" }, "text", other): tag and classes, attributes, children.
  function element(name, ...children) {
    const attributes = children[0]?.constructor === Object ? children.shift() : {};
    const [tag, ...classes] = name.split(".");
    const made = shape(tag, attributes, "http://www.w3.org/1999/xhtml");
    made.classList.add(...classes);
    made.append(...children.flat().filter((child) => !missing(child)));
    return made;
  }
  function shape(tag, attributes, kind = "http://www.w3.org/2000/svg") {
    const made = document.createElementNS(kind, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // -- numbers

  function number(value, digits = 3) {
    if (missing(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(1);
    return Number(value.toPrecision(size >= 1000 ? 6 : digits)).toLocaleString("en");
  }
  function duration(seconds) {
    if (missing(seconds) || !isFinite(seconds)) return "–";
    if (seconds < 0.9995) return number(1000 * seconds) + " ms";
    if (seconds < 100) return Number(seconds.toFixed(1)) + " s";
    const minutes = Math.floor(seconds / 60);
    if (minutes < 100) return minutes + " min " + Math.round(seconds % 60) + " s";
    return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  }
  // A value of a metric, in its format of Python (".2%", ".3g") and with its unit.
  function measured(value, { format, unit }) {
    if (missing(value)) return "–";
    const kind = format.slice(-1), digits = Number(format.slice(1, -1));
    if (kind === "%") return (100 * value).toFixed(digits) + " %";
    const text = kind === "f" ? value.toFixed(digits) : kind === "e" ? value.toExponential(digits)
      : String(Number(value.toPrecision(Math.max(1, digits))));
    return unit ? text + " " + unit : text;
  }
  const FORMATS = { number, seconds: duration,
    share: (v) => (missing(v) ? "–" : Number((100 * v).toPrecision(4)) + " %") };

  // "round 7", or "rounds 8 to 15" of a column that is several wide; numbered from 0.
  function roundsOf(column, { width, done }) {
    const first = column * width, last = Math.min(first + width, done || Infinity) - 1;
    return last > first ? `rounds ${first} to ${last}` : `round ${first}`;
  }

  // The box beside the pointer: a heading, then [mark, text] lines; hidden without `lines`.
  function showTip(tip, lines, left) {
    tip.hidden = !lines;
    if (!lines) return;
    tip.replaceChildren(element("b", lines[0]), ...lines.slice(1).map(([mark, text]) =>
      element("span", element("i.swatch." + mark), text)));
    const beside = left + tip.offsetWidth + 18 > tip.parentElement.clientWidth
      ? left - tip.offsetWidth - 14 : left + 14;
    tip.style.left = Math.max(0, beside) + "px";
  }

  // `box` scrolls: while it has more than it shows, the keyboard reaches it, and what is around
  // it has a shadow at the sides where more is.
  function watchScrolling(box) {
    const tell = () => {
      const right = box.scrollWidth - box.clientWidth - box.scrollLeft;
      const scrolls = right + box.scrollLeft > 1 || box.scrollHeight > box.clientHeight + 1;
      if (scrolls) box.setAttribute("tabindex", 0);
      else box.removeAttribute("tabindex");
      box.parentElement.classList.toggle("more-left", box.scrollLeft > 1);
      box.parentElement.classList.toggle("more-right", right > 1);
    };
    box.addEventListener("scroll", tell, { passive: true });
    const observer = new ResizeObserver(tell);
    for (const each of [box, ...box.children]) observer.observe(each);
    return box;
  }

  // -- colours, and dashes so that lines differ without colours too

  const DASHES = [[], [7, 4], [2, 4], [9, 4, 2, 4], [14, 3], [4, 4], [12, 5, 2, 5, 2, 5], [3, 2]];
  const dashOf = (s) => DASHES[(s.dash || 0) % DASHES.length];
  function colourOf(holder, mark, alpha = 1) {
    const probe = element("i.swatch." + mark, { hidden: "" });
    holder.append(probe); // the stylesheet knows, for light and for dark
    const colour = getComputedStyle(probe).backgroundColor;
    probe.remove();
    return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
  }
  const legend = (series, filled) => element("span.legend", series.map((s) => {
    if (filled) return element("span.key", element("i.swatch." + s.mark), s.name);
    const sample = shape("svg", { viewBox: "0 0 30 10", class: "sample " + s.mark,
      "aria-hidden": "true" });
    sample.append(shape("path", { d: "M1 5h28", "stroke-dasharray": dashOf(s).join(" ") }));
    return element("span.key", sample, s.name);
  }));

  // -- charts, as byzpy_tw/report/curves.py makes them

  // Called again for the same `holder`, charts take the new figures and stay zoomed.
  function drawCharts(holder, specs) {
    for (const [i, spec] of specs.entries()) {
      if (!holder.children[i]) holder.append(element("figure"));
      holder.children[i].dataset.part = spec.name;
      chart(holder.children[i], spec);
    }
    while (holder.children.length > specs.length) holder.lastChild.remove();
  }

  const charts = new WeakMap();
  function chart(holder, spec) {
    const text = JSON.stringify(spec);
    if (charts.get(holder)?.text === text) return;
    const state = charts.get(holder) || frame(holder);
    const drawn = spec.series.filter((s) => s.mean.some((v) => v !== null));
    Object.assign(state, { text, spec, drawn, ...columnsOf(spec, drawn) });
    state.caption.replaceChildren(element("h3", spec.title),
      spec.key === false ? "" : legend(drawn, spec.stacked), element("span.note", state.note));
    state.canvas.setAttribute("aria-label", spec.title + ": " + (drawn.map((s) => {
      const there = s.mean.filter((v) => v !== null), show = FORMATS[spec.format];
      return `${s.name} last ${show(there[there.length - 1])}, lowest ` +
        `${show(Math.min(...there))}, highest ${show(Math.max(...there))}`;
    }).join("; ") || "no data"));
    state.empty.hidden = drawn.length > 0;
    const form = JSON.stringify([state.log, spec.format, drawn.map((s) => [s.name, !s.low, isDotted(s)])]);
    if (state.plot && form === state.form) return state.plot.setData(state.data);
    state.plot?.destroy();
    return Object.assign(state, { form, plot: plotOf(state) });
  }

  function frame(holder) {
    const state = { zoom: null, plot: null, caption: element("figcaption"),
      canvas: element("div.canvas", { role: "img", tabindex: 0,
        "aria-keyshortcuts": "ArrowLeft ArrowRight + - Escape" }),
      tip: element("div.tip", { role: "status", hidden: "" }),
      reset: element("button.reset", { type: "button", hidden: "" }, "all rounds"),
      empty: element("p.empty", "no data") };
    const { caption, canvas, tip, reset, empty } = state;
    holder.replaceChildren(caption, element("div.plot", canvas, empty, tip, reset));
    charts.set(holder, state);
    reset.addEventListener("click", () => zoomTo(state, null));
    canvas.addEventListener("keydown", (event) => pressed(state, event));
    canvas.addEventListener("blur", () => showTip(tip, null));
    new ResizeObserver(() => canvas.clientWidth && state.plot.setSize(
      { width: canvas.clientWidth, height: state.plot.height })).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change",
      () => state.plot.redraw());
    return state;
  }

  const isDotted = (s) => { // evaluations, and what stands alone between gaps
    const count = s.mean.filter((v) => v !== null).length;
    return count === 1 || count <= 60 && (s.dots || count < s.mean.length);
  };

  // What uPlot draws, whether its axis is logarithmic or cut off, and what is said of that.
  function columnsOf(spec, drawn) {
    const { span, width } = spec.rounds, sums = [];
    const middles = (count, wide) => Array.from({ length: count }, (_, i) => (i + 0.5) * wide);
    const piled = drawn.map((s) => ({ ...s, mean: s.mean.map((v, i) =>
      (v === null ? sums[i] ?? null : (sums[i] = (sums[i] || 0) + v))) })).reverse();
    const shown = spec.stacked ? piled : drawn;
    // uPlot joins what is undefined, and leaves a gap for null.
    const tables = shown.map((s) => [middles(s.mean.length, s.width || width),
      ...[s.mean, s.high, s.low].filter(Boolean).map((values) =>
        values.map((v) => (v === null && s.dots ? undefined : v)))]);
    tables.unshift([middles(Math.ceil(span / width) || 1, width)]);
    const there = shown.flatMap((s) => [...s.low || [], ...s.high || s.mean])
      .filter((v) => v !== null).sort((a, b) => a - b);
    const at = (share) => there[Math.floor(share * (there.length - 1))];
    // A loss that explodes, or one slow round, must not flatten all the rest.
    const log = missing(spec.floor) && at(0) > 0 && at(1) > 50 * at(0.5);
    const cut = spec.stacked && at(0.95) > 0 && at(1) > 2 * at(0.95) ? 1.3 * at(0.95) : null;
    return { data: uPlot.join(tables, tables.map((t) => t.slice(1).map(() => 1))), log, cut,
      note: log ? "logarithmic scale" : cut === null ? null
        : "peaks are cut off, the highest is " + FORMATS[spec.format](at(1)) };
  }

  function plotOf(state) {
    const { canvas, spec, drawn, log } = state, series = [{}], bands = [];
    const colour = (mark, alpha) => () => colourOf(canvas, mark, alpha);
    const unseen = { width: 0, points: { show: false } };
    for (const s of spec.stacked ? [...drawn].reverse() : drawn) {
      const stroke = colour(s.mark);
      series.push(spec.stacked
        ? { ...unseen, fill: stroke, paths: uPlot.paths.bars({ size: [1, Infinity] }) }
        : { stroke, width: s.faint ? 0.9 : 1.8, dash: dashOf(s),
          points: { show: isDotted(s), size: 5, fill: stroke } });
      if (!s.low) continue;
      bands.push({ series: [series.length, series.length + 1],
        fill: colour(s.mark, s.faint ? 0.06 : 0.16) });
      series.push(unseen, unseen);
    }
    const axis = { stroke: colour("soft"), font: "12px system-ui, sans-serif",
      ticks: { show: false }, grid: { stroke: colour("rule"), width: 1 } };
    const whole = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((p) => [p, 2 * p, 5 * p]);
    const plot = new uPlot({
      width: canvas.clientWidth || 600, height: 220, padding: [10, 20, 0, 0], series, bands,
      legend: { show: false },
      scales: { x: { time: false, range: () => state.zoom || [0, state.spec.rounds.span] },
        y: { distr: log ? 3 : 1, range: (u, low, high) => levels(state, low, high) } },
      axes: [{ ...axis, grid: { show: false }, size: 28, space: 64, incrs: whole,
        values: (u, marks) => marks.map((v) => number(v, 6)) },
      { ...axis, size: 58, space: 36, values: (u, marks) =>
        marks.map((v) => (v === null ? "" : FORMATS[spec.format](v))) }],
      cursor: { y: false, drag: { x: true, y: false, setScale: false, dist: 5 },
        hover: { bias: -1, skip: [undefined] }, bind: { dblclick: () => () => zoomTo(state) } },
      hooks: { setCursor: [(u) => hovered(state, u)], setSelect: [(u) => {
        const { left, width } = u.select;
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        if (width > 0) zoomTo(state, [left, left + width].map((at) => u.posToVal(at, "x")));
      }] },
    }, state.data, canvas);
    // uPlot listens to a mouse only: a finger that moves sideways is to be one.
    for (const [from, name] of [["down", "mousedown"], ["move", "mousemove"], ["up", "mouseup"]]) {
      plot.over.addEventListener("pointer" + from, ({ pointerType, clientX, clientY }) =>
        pointerType === "touch" && plot.over.dispatchEvent(new MouseEvent(name,
          { clientX, clientY, movementX: 1, bubbles: true })));
    }
    return plot;
  }

  // The y axis: fixed or from zero, but close around what is there when zoomed.
  function levels({ spec, log, cut, zoom }, low, high) {
    if (low === null) return log ? [1, 10] : [spec.floor ?? 0, spec.ceiling ?? 1];
    if (log) return uPlot.rangeLog(low, high, 10, false);
    if (zoom && !spec.stacked) return uPlot.rangeNum(low, high, 0.1, true);
    const least = spec.floor ?? Math.min(0, low);
    const most = spec.ceiling ?? cut ?? least + 1.05 * (high - least);
    return [least, most > least ? most : least + 1];
  }

  function zoomTo(state, range = null) {
    const span = state.spec.rounds.span;
    state.zoom = range && [Math.max(0, range[0]), Math.min(span, range[1])];
    state.reset.hidden = !range;
    state.plot.setScale("x", { min: 0, max: span }); // `range` of the scale has the last word
  }

  function zoomBy(state, factor) {
    const { cursor, scales: { x } } = state.plot, half = factor * (x.max - x.min) / 2;
    const middle = cursor.left >= 0 ? state.plot.posToVal(cursor.left, "x") : (x.min + x.max) / 2;
    const isPart = 2 * half < state.spec.rounds.span;
    if (half >= 1) zoomTo(state, isPart ? [middle - half, middle + half] : null);
  }

  function hovered({ spec, drawn, tip }, u) {
    const { left } = u.cursor, show = FORMATS[spec.format];
    if (left < 0 || !drawn.length) return showTip(tip, null);
    const width = Math.max(...drawn.map((s) => s.width || spec.rounds.width));
    const columns = Math.max(...drawn.map((s) => s.mean.length * (s.width || width))) / width;
    const at = Math.floor(u.posToVal(left, "x") / width);
    const column = Math.min(Math.max(0, at), Math.ceil(columns) - 1);
    return showTip(tip, [roundsOf(column, { ...spec.rounds, width }), ...drawn.map((s) => {
      let i = Math.floor((column + 0.5) * width / (s.width || width));
      while (s.dots && i > 0 && missing(s.mean[i])) i--; // the last that was measured
      const spread = s.low && s.low[i] < s.high[i];
      return [s.mark, `${s.name} ${show(s.mean[i])}`
        + (spread ? ` (${show(s.low[i])} to ${show(s.high[i])})` : "")];
    })], left + u.over.offsetLeft);
  }

  // Arrows move the cursor, + and - zoom around it, Escape shows all rounds.
  function pressed(state, event) {
    const u = state.plot, xs = u.data[0], step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const by = { "+": 0.5, "-": 2 }[event.key];
    if (event.key === "Escape") zoomTo(state);
    if (by) zoomBy(state, by);
    if (!step) return;
    const next = u.cursor.left >= 0 ? u.cursor.idx + step : u.valToIdx(u.scales.x.min);
    const at = xs[Math.max(0, Math.min(next, xs.length - 1))];
    u.setCursor({ left: u.valToPos(at, "x"), top: 10 });
    event.preventDefault();
  }

  return { element, shape, number, measured, duration, roundsOf, showTip, watchScrolling, legend,
    drawCharts };
})();
