"use strict";
// Elements, charts and strips, without any framework.  Whatever is shown becomes a text
// node or an attribute: nothing here makes HTML of a string.
const byzpy = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  let numbered = 0; // of clip paths

  function filled(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  const element = (name, attributes, ...children) =>
    filled(document.createElement(name), attributes, children);
  const shape = (name, attributes, ...children) =>
    filled(document.createElementNS(SVG, name), attributes, children);

  // -- numbers

  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(1);
    return Number(value.toPrecision(size >= 1000 ? 6 : digits)).toLocaleString("en");
  }
  const percent = (value) =>
    value === null || value === undefined ? "–" : (100 * value).toFixed(2) + " %";
  function duration(seconds) {
    if (seconds === null || seconds === undefined || !isFinite(seconds)) return "–";
    if (seconds < 0.9995) return number(1000 * seconds) + " ms";
    if (seconds < 100) return seconds.toFixed(1) + " s";
    const minutes = Math.floor(seconds / 60);
    if (minutes < 100) return minutes + " min " + Math.round(seconds % 60) + " s";
    return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  }
  function bytes(value) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let i = 0;
    while (value >= 1000 && i < units.length - 1) [value, i] = [value / 1000, i + 1];
    return number(value) + " " + units[i];
  }

  // Round values from `low` to `high`, about `count` of them.
  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
      found.push(Number((i * step).toPrecision(12)));
    }
    return found;
  }

  // -- scales

  // From values to 0..1: `read` of a figure, `marks` for its axis.
  function scale(values, { floor = null, ceiling = null, count = 5 } = {}) {
    const there = values.filter((v) => v !== null && v !== undefined);
    if (!there.length) return { at: () => 0, marks: [], log: false, empty: true };
    there.sort((a, b) => a - b);
    const least = there[0], most = there[there.length - 1];
    const middle = there[Math.floor(there.length / 2)];
    if (floor === null && least > 0 && most > 50 * middle) {
      // A loss that explodes would flatten all the rest.
      const low = Math.floor(Math.log10(least)), high = Math.ceil(Math.log10(most));
      const marks = ticks(low, high, count).filter(Number.isInteger).map((p) => 10 ** p);
      const at = (v) => (Math.log10(v) - low) / (high - low || 1);
      return { at, marks, log: true };
    }
    let low = floor === null ? Math.min(least, 0) : floor;
    let high = ceiling === null ? most : ceiling;
    if (!(high > low)) high = low + 1;
    const marks = ticks(low, high, count);
    if (ceiling === null) {
      const step = marks.length > 1 ? marks[1] - marks[0] : high - low;
      if (marks[marks.length - 1] < high) marks.push(marks[marks.length - 1] + step);
      high = Math.max(high, marks[marks.length - 1]);
    }
    return { at: (v) => (v - low) / (high - low), marks, log: false };
  }

  // -- charts

  // One chart in `holder`.  `rounds`: {span, width}; `series`: [{name, mark, values:
  // {mean, low, high}, dots}], one value a column; `stacked`: they add up; `show` makes
  // text of a value; `floor`, `ceiling` fix the axis.
  function chart(holder, { title, note, rounds, series, show, stacked, ...axis }) {
    const width = Math.max(280, Math.min(holder.clientWidth || 600, 1400)), height = 230;
    const left = 52, right = 12, top = 10, bottom = 26;
    const across = width - left - right, down = height - top - bottom;
    const drawn = series.filter((s) => s.values.mean.some((v) => v !== null));
    const shown = stacked ? piled(drawn) : drawn;
    let cut = null;
    if (stacked && shown.length) {
      // One slow round (the first, say) must not flatten the others.
      const tops = shown[shown.length - 1].values.mean.filter((v) => v !== null);
      const sorted = [...tops].sort((a, b) => a - b);
      const usual = sorted[Math.floor(0.95 * (sorted.length - 1))];
      if (sorted[sorted.length - 1] > 2 * usual && usual > 0) {
        [axis.ceiling, cut] = [1.3 * usual, sorted[sorted.length - 1]];
      }
    }
    const measured = shown.flatMap((s) => (s.values.high || s.values.mean)
      .concat(s.values.low || []));
    const y = scale(measured, axis);
    const x = (column) => left + across * Math.min(1, (column + 0.5) * rounds.width /
      rounds.span);
    const level = (value) => top + down * (1 - y.at(value));
    const clip = "clip" + ++numbered;
    const picture = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", width,
      height, "aria-label": title });
    picture.append(shape("clipPath", { id: clip },
      shape("rect", { x: left, y: top - 1, width: across + 1, height: down + 2 })));
    for (const mark of y.marks) {
      if (y.at(mark) > 1.0001 || y.at(mark) < -0.0001) continue;
      picture.append(shape("line", { class: "grid", x1: left, x2: width - right,
        y1: level(mark), y2: level(mark) }));
      picture.append(shape("text", { class: "tick", x: left - 8, y: level(mark) + 4,
        "text-anchor": "end" }, show(mark)));
    }
    for (const mark of ticks(0, rounds.span, across / 90)) {
      if (!Number.isInteger(mark)) continue;
      const at = left + across * mark / rounds.span;
      picture.append(shape("text", { class: "tick", x: at, y: height - 6,
        "text-anchor": mark === 0 ? "start" : at > width - 40 ? "end" : "middle" },
        number(mark, 6)));
    }
    const plot = shape("g", { "clip-path": `url(#${clip})` });
    shown.forEach((s, i) => stacked ? area(plot, s, shown[i - 1], x, level, i)
      : line(plot, s, x, level));
    const rule = shape("line", { class: "rule", y1: top, y2: top + down,
      visibility: "hidden" });
    picture.append(plot, rule);
    const told = element("div", { class: "tip", hidden: "" });
    const frame = element("div", { class: "plot" }, picture, told);
    if (y.empty) frame.append(element("p", { class: "empty" }, "no data"));
    pointing(frame, picture, (at) => {
      const column = columnAt((at - left) / across, rounds, longest(drawn));
      if (column === null) { rule.setAttribute("visibility", "hidden"); return null; }
      rule.setAttribute("x1", x(column)); rule.setAttribute("x2", x(column));
      rule.setAttribute("visibility", "visible");
      return [roundsOf(column, rounds), ...drawn.map((s) => [s.mark, s.name + " " +
        value(s, column, show)])];
    }, told);
    const notes = [note, y.log ? "logarithmic scale" : null,
      cut === null ? null : "peaks are cut off, the highest is " + show(cut)];
    const said = notes.filter(Boolean).join("; ");
    holder.replaceChildren(
      element("figcaption", {}, element("h3", {}, title), legend(drawn),
        said ? element("span", { class: "note" }, said) : null), frame);
  }

  const longest = (series) => Math.max(0, ...series.map((s) => s.values.mean.length));

  function value(s, column, show) {
    const { mean, low, high } = s.values;
    let at = column;
    if (s.dots) while (at > 0 && mean[at] === null) at--; // the last that was measured
    if (mean[at] === null || mean[at] === undefined) return "–";
    const spread = low && low[at] !== null && low[at] < high[at];
    return show(mean[at]) + (spread ? ` (${show(low[at])} to ${show(high[at])})` : "");
  }

  function line(plot, s, x, level) {
    const { mean, low, high } = s.values;
    if (low) {
      const there = mean.map((v, i) => (v === null ? -1 : i)).filter((i) => i >= 0);
      const edge = there.map((i) => `${x(i).toFixed(1)},${level(high[i]).toFixed(1)}`).concat(
        there.reverse().map((i) => `${x(i).toFixed(1)},${level(low[i]).toFixed(1)}`));
      plot.append(shape("polygon", { class: "band " + s.mark, points: edge.join(" ") }));
    }
    let path = "", open = false;
    const measured = [];
    mean.forEach((v, i) => {
      // Between evaluations there is nothing; a loss that is missing was not finite.
      if (v === null) { open = open && s.dots; return; }
      path += `${open ? "L" : "M"}${x(i).toFixed(1)} ${level(v).toFixed(1)}`;
      open = true;
      measured.push(i);
    });
    plot.append(shape("path", { class: "line " + s.mark, d: path }));
    if (s.dots && measured.length <= 60 || measured.length === 1) {
      for (const i of measured) {
        plot.append(shape("circle", { class: "dot " + s.mark, cx: x(i), cy: level(mean[i]),
          r: 2.5 }));
      }
    }
  }

  // Each series on the ones before it.
  function piled(series) {
    const sums = [];
    return series.map((s) => ({ ...s, values: { mean: s.values.mean.map((v, i) =>
      v === null ? sums[i] ?? null : (sums[i] = (sums[i] || 0) + v)) } }));
  }

  function area(plot, s, below, x, level, i) {
    const mean = s.values.mean, half = (x(1) - x(0)) / 2;
    let d = "";
    mean.forEach((v, column) => {
      if (v === null) return;
      const base = below ? below.values.mean[column] ?? 0 : 0;
      const [a, b] = [x(column) - half, x(column) + half];
      d += `M${a.toFixed(1)} ${level(v).toFixed(1)}H${b.toFixed(1)}` +
        `V${level(base).toFixed(1)}H${a.toFixed(1)}Z`;
    });
    plot.append(shape("path", { class: "area " + s.mark, d }));
  }

  function legend(series) {
    return element("span", { class: "legend" }, series.map((s) =>
      element("span", { class: "key" }, element("i", { class: "swatch " + s.mark }), s.name)));
  }

  // -- pointing at rounds

  function columnAt(share, rounds, columns) {
    if (!columns || share < -0.02 || share > 1.02) return null;
    const column = Math.floor(share * rounds.span / rounds.width);
    return Math.max(0, Math.min(columns - 1, column));
  }

  function roundsOf(column, rounds) {
    const first = column * rounds.width; // numbered from 0, as in rounds.jsonl
    const last = Math.min(first + rounds.width - 1, (rounds.done || Infinity) - 1);
    return last > first ? `rounds ${first} to ${last}` : `round ${first}`;
  }

  // Shows what `tell` says of a place in `picture`: [heading, [mark, text], ...] or null.
  function pointing(frame, picture, tell, told) {
    const move = (event) => {
      const box = picture.getBoundingClientRect();
      const size = Number(picture.getAttribute("width"));
      const lines = tell((event.clientX - box.left) * size / box.width);
      told.hidden = lines === null;
      if (lines === null) return;
      told.replaceChildren(element("b", {}, lines[0]), ...lines.slice(1).map(([mark, text]) =>
        element("span", {}, element("i", { class: "swatch " + mark }), text)));
      const at = event.clientX - box.left;
      const room = frame.clientWidth - told.offsetWidth - 4;
      const beside = at + 14 > room ? at - told.offsetWidth - 14 : at + 14;
      told.style.left = Math.max(0, beside) + "px";
    };
    picture.addEventListener("pointermove", move);
    picture.addEventListener("pointerdown", move);
    picture.addEventListener("pointerleave", () => tell(-1e9) || (told.hidden = true));
  }

  // -- strips: one row of cells, a column each

  // `letters`, `digits` and `excluded` by column: see History.strips; `states`: letter ->
  // [mark, word].
  function strip(holder, { rounds, letters, digits, excluded, states, name }) {
    const width = Math.max(120, holder.clientWidth || 400), height = 18;
    const cells = merged(letters, digits, excluded, rounds, width);
    const paths = {};
    const step = width * cells.width / rounds.span;
    const gap = step >= 5 ? 1 : 0;
    cells.letters.forEach((letter, i) => {
      if (letter === "-") return;
      const x = (i * step).toFixed(2);
      const w = Math.max(0.4, Math.min(step, width - i * step) - gap);
      const tall = letter === "s" ? 0 : Math.max(3, Math.round(height * cells.shares[i] / 9));
      const above = Math.min(height - tall, Math.round(height * cells.excluded[i] / 9));
      const box = (key, y, h) => {
        paths[key] = (paths[key] || "") + `M${x} ${y}h${w.toFixed(2)}v${h}h-${w.toFixed(2)}z`;
      };
      if (tall + above < height) box("s", 0, height - tall - above);
      if (above > 0) box("x", height - tall - above, above);
      if (tall > 0) box(letter, height - tall, tall);
    });
    const picture = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height,
      role: "img", preserveAspectRatio: "none", "aria-label": name });
    for (const [letter, d] of Object.entries(paths)) {
      picture.append(shape("path", { class: "cell " + states[letter][0], d }));
    }
    const told = element("div", { class: "tip", hidden: "" });
    pointing(holder, picture, (at) => {
      const column = Math.floor(at / step);
      if (!(column >= 0 && column < cells.letters.length)) return null;
      const letter = cells.letters[column], [mark, word] = states[letter] || ["", "–"];
      const wide = { ...rounds, width: cells.width };
      const share = cells.width === 1 || letter === "s" ? ""
        : ` in about ${Math.round(100 * cells.shares[column] / 9)} % of them`;
      return [roundsOf(column, wide), [mark, name + ": " + word + share]];
    }, told);
    holder.replaceChildren(picture, told);
  }

  // Fewer cells where they would be narrower than two pixels.
  function merged(letters, digits, excluded, rounds, width) {
    const every = Math.max(1, Math.ceil(2 * rounds.span / rounds.width / width));
    const made = { letters: [], shares: [], excluded: [], width: every * rounds.width };
    for (let i = 0; i < letters.length; i += every) {
      const weights = {}; // of refusals, by letter
      let refused = 0, out = 0, count = 0;
      for (let j = i; j < Math.min(i + every, letters.length); j++) {
        if (letters[j] === "-") continue;
        count++;
        const share = Number(digits[j]);
        out += letters[j] === "x" ? share : Number(excluded[j]);
        if (letters[j] === "x" || !share) continue;
        refused += share;
        weights[letters[j]] = (weights[letters[j]] || 0) + share;
      }
      const worst = Object.keys(weights).sort((a, b) => weights[b] - weights[a])[0];
      made.letters.push(worst || (out ? "x" : count ? "s" : "-"));
      made.shares.push((worst ? refused : out) / (count || 1));
      made.excluded.push(worst ? out / count : 0);
    }
    return made;
  }

  return { element, shape, number, percent, duration, bytes, chart, strip, ticks };
})();
