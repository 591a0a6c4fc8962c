"use strict";
// The page of a sweep: a table over any two axes, the curves of its cells, and what is told of
// the one that is chosen.  Without this the page has the findings in sentences.
(() => {
  const { element, shape, legend, drawCharts, watchScrolling } = byzpy;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { dimensions, metrics, cells, texts, seeds } = data;
  const MOST = { cells: 4000, charts: 12, lines: 16 };
  const byId = (id) => document.getElementById(id);
  const named = (name) => dimensions.find((d) => d.name === name) || null;
  const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  // -- numbers as text

  function bare(value, metric) { // without its unit, a share in percent
    if (value === null || value === undefined) return "–";
    return metric.share ? (100 * value).toFixed(1) : byzpy.measured(value, { ...metric, unit: "" });
  }
  const percent = (value) => Math.round(100 * value);
  const signed = (value, metric) => (value < 0 ? "−" : "+") + bare(Math.abs(value), metric);

  // -- what is chosen

  const KINDS = { final: "final", worst: "worst (of the last fifth)", best: "best" };
  const OVER = { mean: "mean", deviation: "standard deviation", min: "lowest", max: "highest",
    count: "number of values" };
  const state = { rows: named(data.view.rows), columns: named(data.view.columns), others: new Map(),
    metric: 0, kind: "final", over: "mean", axis: null, base: 0, cell: null };

  function others() {
    return pivots.othersOf(data, [state.rows, state.columns]).map((d) =>
      [d, state.others.get(d.name) ?? (data.view.each ? "each" : 0)]);
  }
  // A select in a label; `options` are pairs of a value and a text.
  function choice(label, options, value, chosen) {
    const select = element("select", options.map(([key, text]) => {
      const option = element("option", { value: key }, text);
      option.selected = String(key) === String(value);
      return option;
    }));
    select.addEventListener("change", () => chosen(select.value));
    return element("label.choice", label, select);
  }
  function swap(part, name) { // the other part takes what this one had
    const other = part === "rows" ? "columns" : "rows", before = state[part];
    state[part] = named(name);
    const both = [state[part], state[other]];
    if (both.every(Boolean) && both[0].options.some((o) => both[1].options.includes(o))) {
      const fits = before && !before.options.some((o) => state[part].options.includes(o));
      state[other] = fits ? before : null;
    }
  }
  function drawChoices() {
    const axes = dimensions.map((d) => [d.name, d.title]), none = [["", "nothing"]];
    const change = (set) => (value) => {
      const id = [...byId("choices").querySelectorAll("select")].indexOf(document.activeElement);
      set(value);
      state.cell = null;
      draw();
      byId("choices").querySelectorAll("select")[id]?.focus();
    };
    const made = dimensions.length ? [
      choice("rows", [...none, ...axes], state.rows?.name || "", change((v) => swap("rows", v))),
      choice("columns", [...none, ...axes], state.columns?.name || "",
        change((v) => swap("columns", v))),
      ...others().map(([d, how]) => choice(d.title, [["each", "each"], ["worst", "the worst"],
        ...d.values.entries()], how, change((v) => state.others.set(d.name,
        isNaN(v) ? v : Number(v)))))] : [];
    if (metrics.length > 1) made.push(choice("metric", metrics.map((m, i) => [i, m.words]),
      state.metric, change((v) => { state.metric = Number(v); })));
    made.push(choice("value", Object.entries(KINDS), state.kind,
      change((v) => { state.kind = v; })));
    if (seeds.length > 1) made.push(choice("over the seeds", Object.entries(OVER), state.over,
      change((v) => { state.over = v; })));
    byId("choices").replaceChildren(...made);
  }

  // -- the table

  const labelOf = (dimension, number) => (number === pivots.WORST ? "worst case"
    : dimension ? dimension.values[number] : "");
  // `name`, which may break behind its signs.
  const broken = (name) => name.split(/(?<=[:,|])/).flatMap((part, i) =>
    [i ? element("wbr") : null, part.includes("=") && part.length < 10
      ? element("span.whole", part) : part]);
  const titleOf = (table, block) => table.each.map((d, i) =>
    `${d.title} = ${d.values[block[i]]}`).join(", ");

  function shareText(cell) { // whom the rule followed
    if (cells.failed[cell] !== null) return "";
    const weight = cells.weight[cell], [honest, byzantine] = cells.out.map((out) => out[cell]);
    const parts = cells.success[cell] === null ? [] : [`ASR\u00a0${percent(cells.success[cell])}`];
    if (weight !== null) parts.push(`wt B\u00a0${percent(weight)}`);
    if (honest !== null) parts.push("out " +
      (weight === null ? `B\u00a0${percent(byzantine)} ` : "") + `H\u00a0${percent(honest)}`);
    return parts.join(" ");
  }
  function cellTexts(value, metric, isFallen) {
    if (!value) return ["", []];
    const { values, status, cell } = value, over = pivots.STATISTICS[state.over](values);
    if (!values.length || status === "diverged") return [status, []];
    const mark = value.mark === "?" ? "?" : isFallen ? "!" : value.mark;
    const bound = value.unknown ? (metric.better === "lower" ? "≥ " : "≤ ") : "";
    const text = state.over === "count" ? String(over) : bare(over, metric);
    const below = [];
    if (state.over === "mean" && values.length > 1) {
      below.push("± " + bare(pivots.STATISTICS.deviation(values), metric));
    } else if (state.over === "mean" && state.kind === "final") {
      const ends = ["worst", "best"].map((kind) =>
        bare(pivots.valueOf(data, state.metric, kind, cell).values[0], metric));
      below.push(ends.join(metric.share ? "–" : " to "));
    }
    below.push(value.where.length ? value.where.join(", ") : shareText(cell));
    return [bound + text + mark, below.filter(Boolean)];
  }
  function drawCell(table, block, row, column, metric, best, down) {
    const key = pivots.at(block, row, column), value = table.cells.get(key);
    const [text, below] = cellTexts(value, metric, down.has(key));
    const made = element("td");
    if (!value) return made;
    const shade = pivots.score(metric, pivots.goodness(value, metric), best);
    if (shade !== null && state.over !== "deviation" && state.over !== "count") {
      made.classList.add("v" + Math.round(100 * shade));
    }
    const name = [labelOf(state.rows, row), labelOf(state.columns, column),
      titleOf(table, block)].filter(Boolean).join(", ");
    const button = element("button", { type: "button", "aria-pressed": value.cell === state.cell },
      element("span.unseen", name + ": "), value.values.length ? element("b", text)
        : element("span.state", text), below.map((line) => element("small", line)));
    button.addEventListener("click", () => chooseCell(value.cell));
    made.append(button);
    return made;
  }
  function drawTable() {
    const metric = metrics[state.metric] || null, holder = byId("table");
    const table = pivots.pivot(data, { ...state, others: others() });
    const shown = table.blocks.slice(0, Math.max(1, Math.floor(MOST.cells /
      (table.rows.length * table.columns.length || 1))));
    const good = [...table.cells.values()].map((value) => metric && pivots.goodness(value, metric));
    const best = good.reduce((a, b) => (b === null ? a : Math.max(a, b)), -Infinity);
    const down = metric && state.kind === "final" ? pivots.fallen(table, metric) : new Set();
    const corner = [state.rows?.title, state.columns?.title].filter(Boolean).join(" \\ ");
    const words = caption(metric);
    const heads = table.columns.map((column) => element("th", { scope: "col" },
      state.columns ? broken(labelOf(state.columns, column)) : metric?.words || ""));
    const bodies = shown.map((block) => element("tbody",
      table.each.length ? element("tr.block", element("th", { scope: "rowgroup",
        colspan: table.columns.length + 1 }, titleOf(table, block))) : null,
      table.rows.map((row) => element("tr", element("th", { scope: "row" },
        state.rows ? broken(labelOf(state.rows, row)) : "all runs"), table.columns.map((column) =>
        drawCell(table, block, row, column, metric || {}, best, down))))));
    const made = element("table.heat", element("caption.unseen", words), element("thead",
      element("tr", element("th.corner", { scope: "col" }, corner || "runs"), heads)), bodies);
    made.style.minWidth = 5.7 + 4.2 * table.columns.length + "rem";
    holder.replaceChildren(made);
    holder.setAttribute("aria-label", words);
    holder.dispatchEvent(new Event("scroll")); // its shadows
    const more = table.blocks.length - shown.length;
    byId("legend").textContent = words + "." + (more > 0 ? ` ${more} more tables have no room ` +
      "here: choose one value of an axis." : "");
    byId("marks").replaceChildren(...marks(table, down, metric));
    drawScale(metric);
    drawCurves(table);
  }
  function caption(metric) {
    if (!metric) return "No run has ended";
    const unit = metric.share ? " in percent" : metric.unit ? ` in ${metric.unit}` : "";
    const over = seeds.length > 1 ? `; the ${OVER[state.over]} over ${seeds.length} seeds` : "";
    return `${upper(KINDS[state.kind])} ${metric.words}${unit}${over}` +
      (metric.better === "lower" ? "; lower is better" : "");
  }
  function marks(table, down, metric) {
    const values = [...table.cells.values()], lines = [];
    if (down.size) lines.push("!: " + (metric.share ? "30 points or more " +
      (metric.better === "lower" ? "above" : "below") + " the best of its row or column"
      : "worse than the best of its row or column by " + (metric.better === "lower" ? "200 %"
        : "50 %") + " of that or more") + (metric.chance === null ? ""
      : `, or near chance (${bare(metric.chance, metric)})`));
    const told = (sign, column) => {
      const found = new Map(values.filter((v) => v.mark === sign)
        .map((v) => [column[v.cell], v.cell]));
      for (const number of [...found.keys()].slice(0, 5)) lines.push(`${sign}: ${texts[number]}`);
    };
    told("?", cells.failed);
    told("*", cells.no_guarantee);
    if (values.some((v) => v.unknown)) lines.push(
      "≤ or ≥: a cell without a value could be worse still");
    const shares = values.map((v) => shareText(v.cell)).join(" ");
    if (shares.includes("ASR")) lines.push("ASR: success rate of the attack in percent, final");
    if (shares.includes("wt B")) lines.push(
      "wt B: percent of the weight in the aggregates that Byzantine nodes had");
    if (shares.includes("out ")) lines.push(
      "out: percent of the rounds in which Byzantine (B) and honest (H) nodes were left out");
    return lines.map((line) => element("li", line));
  }
  function drawScale(metric) {
    const ends = metric?.share ? ["0 %", "100 %"] : ["far from the best", "the best"];
    if (metric?.share && metric.better === "lower") ends.reverse();
    byId("scale").replaceChildren(ends[0], " ", element("i"), " ", ends[1]);
    byId("scale").hidden = state.over === "deviation" || state.over === "count";
  }

  // -- curves

  const { span } = data, width = Math.ceil(span / 512);
  function seriesOf(cell, index, name) {
    const found = data.curves.of[cell];
    if (!found) return null;
    const rounds = data.curves.rounds[found[0]];
    const spread = (values) => {
      const last = Math.min(rounds[rounds.length - 1], span);
      const columns = Array(Math.ceil(last / width)).fill(null);
      rounds.forEach((round, i) => {
        if (round <= span) columns[Math.ceil(round / width) - 1] = values[i];
      });
      return columns;
    };
    const [mean, low, high] = found.slice(1).map(spread), i = index;
    return { name, mark: `c${i % 8}`, dash: (i + Math.floor(i / 8)) % 8, dots: true, mean,
      ...(low ? { low, high } : {}), faint: cells.failed[cell] !== null };
  }
  function chartOf(title, series) {
    const metric = metrics[0], all = series.flatMap((s) => [...s.mean, ...s.low || [],
      ...s.high || []]).filter((v) => v !== null);
    const part = metric.share && all.every((v) => v >= 0 && v <= 1);
    return { name: title, title, format: metric.share ? "share" : "number", key: false,
      rounds: { span, width, done: span }, series, ...(part ? { floor: 0, ceiling: 1 } : {}) };
  }
  function drawCurves(table) {
    const block = table.blocks.find((b) => [...table.cells].some(([key, value]) =>
      value.cell === state.cell && key.startsWith(b.length ? b.join() + "," : ""))) ||
      table.blocks[0] || [];
    const columns = table.columns.filter((c) => c !== pivots.WORST).slice(0, MOST.charts);
    const rows = table.rows.filter((r) => r !== pivots.WORST).slice(0, MOST.lines);
    const charts = columns.map((column) => chartOf(labelOf(state.columns, column) || "all",
      rows.map((row, i) => {
        const value = table.cells.get(pivots.at(block, row, column));
        return value && seriesOf(value.cell, i, labelOf(state.rows, row) || "runs");
      }).filter(Boolean)));
    const title = titleOf(table, block), key = new Map(charts.flatMap((c) => c.series)
      .map((s) => [s.name, s]));
    byId("curves-title").textContent = upper(metrics[0]?.words || "") + " over the rounds" +
      (title ? `, ${title}` : "");
    byId("curves-key").replaceChildren(legend([...key.values()]));
    drawCharts(byId("curves"), charts);
  }

  // -- a cell

  function chooseCell(cell) {
    state.cell = cell;
    for (const button of byId("table").querySelectorAll("[aria-pressed='true']")) {
      button.setAttribute("aria-pressed", false);
    }
    document.activeElement?.closest(".heat")
      && document.activeElement.setAttribute("aria-pressed", true);
    drawDetails();
    byId("cell").focus();
    byId("cell").scrollIntoView({ block: "nearest" });
  }
  function drawDetails() {
    const holder = byId("cell"), cell = state.cell;
    holder.hidden = cell === null;
    if (cell === null) return;
    const at = dimensions.filter((d) => !d.whole).map((d) =>
      `${d.title} = ${d.values[pivots.labelIndex(data, d, cell)]}`);
    const said = [["why", texts[cells.why[cell]]],
      ["why", cells.failed[cell] !== null && `${upper(texts[cells.failed[cell]])}; nothing is ` +
        "concluded from this cell."],
      ["note", cells.no_guarantee[cell] !== null &&
        "No guarantee: " + texts[cells.no_guarantee[cell]]],
      ["note", cells.told?.[cell]]].filter(([, line]) => line);
    const series = metrics.length ? seriesOf(cell, 0, "mean of the seeds") : null;
    const figures = element("div.charts");
    holder.replaceChildren(element("h2", { id: "cell-title" }, at.join(", ") || "all runs"),
      element("p", cells.status[cell]), ...said.map(([kind, line]) => element("p." + kind, line)),
      metrics.length ? valuesTable(cell) : "", bars(cells.nodes?.[cell]), figures, ...runs(cell));
    if (series) drawCharts(figures, [chartOf(upper(metrics[0].words) + " over the rounds",
      [series])]);
  }
  function valuesTable(cell) {
    const lines = metrics.flatMap((metric, m) => Object.keys(KINDS).map((kind) => {
      const { values } = pivots.valueOf(data, m, kind, cell);
      return values.length ? [`${kind} ${metric.words}`, ...Object.entries(OVER)
        .filter(([name]) => seeds.length > 1 || name === "mean").map(([name]) => {
          const value = pivots.STATISTICS[name](values);
          return name === "count" ? String(value) : bare(value, metric);
        })] : null;
    }).filter(Boolean));
    if (!lines.length) return "";
    const heads = ["", ...(seeds.length > 1 ? Object.values(OVER) : ["value"])];
    const table = element("table", element("caption.unseen", "Values over the seeds"),
      element("thead", element("tr", heads.map((head, i) =>
      (i ? element("th.n", { scope: "col" }, head) : element("td"))))), element("tbody",
      lines.map(([name, ...values]) => element("tr", element("th", { scope: "row" }, name),
        values.map((value) => element("td.n", value))))));
    const box = element("div.scroll", { role: "group", "aria-label": "values over the seeds" },
      table);
    const wide = element("div.shadowed", box);
    watchScrolling(box);
    return wide;
  }
  function bars(nodes) {
    if (!nodes) return "";
    return element("ol.bars", nodes.map(([honest, out], node) => {
      const kind = honest ? "honest" : "Byzantine";
      const title = `node ${node}, ${kind}: left out of ${percent(out)} % of the rounds`;
      const drawn = shape("svg", { viewBox: "0 0 1 100", preserveAspectRatio: "none", role: "img",
        "aria-label": title });
      drawn.append(shape("rect", { y: 100 - 100 * out, width: 1, height: 100 * out }));
      return element("li." + (honest ? "honest" : "byz"), { title }, drawn,
        (honest ? "" : "B") + node);
    }));
  }
  const commandOf = (cell, seed) => data.command.map((part) => (typeof part === "string" ? part
    : part.seed ? `${part.seed} ${seed}` : part.texts[part.of[cell]])).filter(Boolean).join(" ");
  function runs(cell) {
    const made = [];
    data.runs.forEach((run, s) => {
      if (run.folder[cell] === null) return;
      const pre = element("pre", commandOf(cell, seeds[s])), where = `cells/${run.folder[cell]}`;
      const told = run.status[cell] === null ? "not run yet" : `${run.status[cell]}, ` +
        `${run.rounds[cell]} rounds in ${run.seconds[cell]} s` +
        (run.digest[cell] ? `; parameters ${run.digest[cell]}` : "");
      const links = run.linked[cell] ? ["; ", element("a", { href: `${where}/report.html` },
        "its report"), ", ", element("a", { href: `${where}/rounds.jsonl` }, where)] : [];
      made.push(pre, copyButton(pre), element("p.run", `seed ${seeds[s]}: ${told}`, links));
    });
    return made.length ? [element("p", "The same runs by themselves, to the same bits:"), ...made]
      : [];
  }
  function copyButton(pre) {
    if (!navigator.clipboard) return "";
    const button = element("button.copy", { type: "button", "aria-live": "polite" }, "copy");
    button.addEventListener("click", () => navigator.clipboard.writeText(pre.textContent).then(
      () => { button.textContent = "copied"; },
      () => { button.textContent = "select it by hand"; }));
    return button;
  }

  // -- paired comparisons

  function drawComparisons() {
    const axis = state.axis || state.rows || dimensions[0], metric = metrics[state.metric];
    byId("comparisons").hidden = !axis || !metric;
    if (!axis || !metric) return;
    const base = Math.min(state.base, axis.values.length - 1);
    const fixed = others().filter(([d, how]) => typeof how === "number" &&
      !d.options.some((o) => axis.options.includes(o)));
    const found = pivots.compare(data, axis, base, state.metric, state.kind, (cell) =>
      fixed.every(([d, label]) => pivots.labelIndex(data, d, cell) === label));
    const redraw = (set) => (value) => {
      const i = [...byId("compared").querySelectorAll("select")].indexOf(document.activeElement);
      set(value);
      drawComparisons();
      byId("compared").querySelectorAll("select")[i]?.focus();
    };
    byId("compared").replaceChildren(
      choice("compare", dimensions.map((d) => [d.name, d.title]), axis.name,
        redraw((v) => { state.axis = named(v); state.base = 0; })),
      choice("with", [...axis.values.entries()], base, redraw((v) => { state.base = Number(v); })));
    const where = fixed.map(([d, label]) => `${d.title} = ${d.values[label]}`).join(", ");
    byId("compared-note").textContent = `${upper(KINDS[state.kind])} ${metric.words} minus that ` +
      `of ${axis.values[base]}, ${metric.share ? "in points" : metric.unit ? `in ${metric.unit}`
        : "as they are"}, over equal seeds${where ? ` where ${where}` : ""}. The differences of ` +
      "all cells are averaged for each seed; the interval is that of a paired t-test over seeds.";
    const rows = found.map((c) => element("tr", element("th", { scope: "row" }, c.label),
      element("td.n", c.mean === null ? "–" : signed(c.mean, metric)),
      element("td.n", intervalText(c, metric)),
      element("td.n", c.differences.length ? `${c.wins} of ${c.differences.length}` : "–"),
      element("td.n", c.signTest === null ? "–" : c.signTest.toPrecision(2)),
      element("td.n", String(c.cells) + (c.leftOut ? ` (${c.leftOut} left out)` : ""))));
    const heads = ["difference", "95 % interval", "better in seeds", "sign test, p", "cells"];
    byId("compared-table").replaceChildren(element("table", element("caption.unseen",
      `Compared with ${axis.values[base]}`), element("thead", element("tr",
      element("th", { scope: "col" }, axis.title), heads.map((head) =>
        element("th.n", { scope: "col" }, head)))), element("tbody", rows)));
  }
  function intervalText({ differences, interval }, metric) {
    if (!differences.length) return "no values of both";
    if (differences.length === 1) return "one seed only: nothing is shown";
    if (!interval) return "needs SciPy: pip install 'byzpy-tw[statistics]'";
    return interval.map((end) => signed(end, metric)).join(" to ");
  }

  function draw() {
    drawChoices();
    drawTable();
    drawDetails();
    drawComparisons();
  }
  draw();
  watchScrolling(byId("table"));
  watchScrolling(byId("compared-table"));
  if (byId("selected-table")) watchScrolling(byId("selected-table"));
})();
