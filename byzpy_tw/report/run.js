"use strict";
// The page of one run, of several side by side, or of one under way.
(() => {
  const { element, number, percent, duration, bytes, chart, strip } = byzpy;
  const page = document.getElementById("page");

  const STATES = {
    s: ["s-selected", "selected"], x: ["s-excluded", "excluded by the rule"],
    r: ["s-refused", "refused"], t: ["s-late", "late"], l: ["s-lost", "lost"],
    p: ["s-probation", "on probation"],
  };
  const WORDS = { selected: "s", excluded: "x", refused: "r", late: "t", lost: "l",
    probation: "p" };
  const OVER = ["finished", "failed", "paused", "diverged", "interrupted"];

  // -- what is drawn again whenever its data or its width change

  const drawings = new Map(); // holder -> [draw, data as text, width]
  function draw(holder, data, how) {
    const text = JSON.stringify(data), known = drawings.get(holder);
    drawings.set(holder, [how, text, holder.clientWidth]);
    if (!known || known[1] !== text || known[2] !== holder.clientWidth) how(holder, data);
  }
  let waiting = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      for (const [holder, [how, text, width]] of drawings) {
        if (!holder.isConnected) drawings.delete(holder);
        else if (holder.clientWidth && holder.clientWidth !== width) {
          drawings.set(holder, [how, text, holder.clientWidth]);
          how(holder, JSON.parse(text));
        }
      }
    });
  });

  // The child of `parent` called `key`, made by `make` when it is first asked for.
  function part(parent, key, make) {
    let found = [...parent.children].find((child) => child.dataset.part === key);
    if (!found) {
      found = make();
      found.dataset.part = key;
      parent.append(found);
    }
    return found;
  }
  const section = (parent, key, title) => part(parent, key, () =>
    element("section", {}, title ? element("h2", {}, title) : null));
  const within = (parent, key, name = "div", attributes = {}) =>
    part(parent, key, () => element(name, attributes));

  // -- one run

  function run(parent, data) {
    heading(within(parent, "head", "header"), data);
    const grid = within(section(parent, "curves"), "grid", "div", { class: "grid" });
    curves(grid, data);
    strips(section(parent, "nodes", "Nodes, round by round"), data);
    places(section(parent, "places", "Where each node lives"), data);
    counts(section(parent, "counts", "How often each node was kept, and why not"), data);
    events(section(parent, "events", "What happened"), data);
    options(section(parent, "options", "Configuration"), data);
  }

  function heading(holder, data) {
    draw(holder, [data.name, data.status, data.conclusion, data.note, data.figures,
      data.rounds], () => {
      const f = data.figures, r = data.rounds;
      holder.replaceChildren(
        element("p", { class: "brand" }, "byzpy_tw"),
        element("h1", {}, data.name, " ", status(data.status)),
        element("p", { class: "conclusion" }, data.conclusion.join(" ")),
        data.note ? element("p", { class: "warning" }, data.note) : "",
        element("div", { class: "tiles" },
          tile("round", `${r.done}`, `of ${r.planned}`),
          tile("accuracy", percent(f.accuracy), f.worst_accuracy === null ? ""
            : `worst ${percent(f.worst_accuracy)}, best ${percent(f.best_accuracy)}`),
          tile("loss", number(f.test_loss ?? f.loss), f.test_loss === null
            ? "of the honest nodes" : `test; honest nodes ${number(f.loss)}`),
          tile("pace", f.seconds_a_round ? number(1 / f.seconds_a_round) + "/s" : "–",
            `${duration(f.seconds_a_round)} a round`),
          tile(data.status === "running" ? "time left" : "time",
            data.status === "running" ? duration((r.planned - r.done) * f.seconds_a_round)
              : duration(f.seconds),
            data.status === "running" ? `${duration(f.seconds)} so far` : ""),
          tile("refused or lost", number(f.charged, 6), "nodes, over all rounds"),
          f.bytes[0] + f.bytes[1] === 0 ? "" : tile("traffic", bytes(f.bytes[0] + f.bytes[1]),
            `${bytes(f.bytes[0])} out, ${bytes(f.bytes[1])} in`)));
    });
  }
  const status = (word) => element("span", { class: "pill " + (OVER.includes(word) ||
    word === "running" ? "is-" + word : "") }, word);
  const tile = (name, value, more) => element("div", { class: "tile" },
    element("span", { class: "name" }, name), element("span", { class: "value" }, value),
    element("span", { class: "more" }, more));

  const inPercent = (v) => Number((100 * v).toPrecision(4)) + " %";

  function curves(grid, data) {
    const figure = (key) => within(grid, key, "figure");
    const rounds = data.rounds, c = data.curves;
    draw(figure("accuracy"), [rounds, c.accuracy], (holder) => chart(holder, {
      title: "Accuracy on the test data", rounds, show: inPercent, floor: 0, ceiling: 1,
      series: [{ name: "accuracy", mark: "c0", values: c.accuracy, dots: true }] }));
    draw(figure("loss"), [rounds, c.loss, c.test_loss], (holder) => chart(holder, {
      title: "Loss", rounds, show: number, series: [
        { name: "honest nodes, on their batches", mark: "c7", values: c.loss },
        { name: "test data", mark: "c1", values: c.test_loss, dots: true }] }));
    draw(figure("phases"), [rounds, data.phases], (holder) => chart(holder, {
      title: "Time of a round, by phase", rounds, show: duration, stacked: true, floor: 0,
      series: Object.entries(data.phases).map(([name, mean], i) =>
        ({ name, mark: "p" + i, values: { mean } })) }));
  }

  const kept = (node) => {
    const all = Object.values(node.totals).reduce((a, b) => a + b, 0);
    return all ? node.totals.selected / all : null;
  };

  function strips(holder, data) {
    const used = new Set(data.nodes.flatMap((node) => [...node.letters]));
    draw(within(holder, "legend", "p", { class: "legend" }), [...used].sort(), (place) =>
      place.replaceChildren(...Object.entries(STATES).filter(([letter]) => "sx".includes(letter)
        || used.has(letter)).map(([, [mark, word]]) => element("span", { class: "key" },
        element("i", { class: "swatch " + mark }), word))));
    const list = within(holder, "list", "div", { class: "strips" });
    for (const node of data.nodes) {
      const row = part(list, "node" + node.node, () => element("div", { class: "strip" },
        element("span", { class: "label" }, `node ${node.node}`,
          node.honest ? "" : element("b", { class: "byzantine" }, "Byzantine")),
        element("div", { class: "cells" }), element("span", { class: "share" })));
      row.dataset.node = node.node;
      row.dataset.states = node.letters;
      const share = kept(node);
      row.lastChild.textContent = share === null ? "" : Math.round(100 * share) + " % kept";
      draw(row.children[1], [data.rounds, node.letters, node.digits, node.excluded], (cells) =>
        strip(cells, { ...node, rounds: data.rounds, states: STATES,
          name: `node ${node.node}` }));
    }
    within(holder, "more", "p", { class: "note" }).textContent = [
      data.rounds.width > 1 ? `A cell is ${data.rounds.width} rounds; the height of its ` +
        "colour is the share of them." : "",
      data.unshown ? `${data.unshown} more nodes are in rounds.jsonl.` : ""].join(" ").trim();
  }

  function places(holder, data) {
    draw(within(holder, "list", "div", { class: "places" }), data.places, (list) =>
      list.replaceChildren(...(data.places.length ? data.places.map((place) =>
        element("div", { class: "place" + (place.up === false ? " down" : ""),
          "data-place": place.name },
          element("span", { class: "server" }, element("i", { class: "light " +
            (place.up === null ? "unknown" : place.up ? "up" : "gone") }), place.name),
          element("span", { class: "state" }, place.up === null ? ""
            : place.up ? "up" : "lost"),
          element("span", { class: "living" }, place.nodes.length
            ? "nodes " + place.nodes.join(", ") + (place.more ? ` and ${place.more} more` : "")
            : "no nodes"))) : [element("p", { class: "note" }, "not on record")])));
  }

  function table(heads, rows) {
    const first = rows.length ? [...rows[0].children] : [];
    return element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, heads.map((head, i) => element("th",
        { scope: "col", class: first[i] && first[i].className || null }, head)))),
      element("tbody", {}, rows)));
  }
  const cells = (values) => values.map((v) => v instanceof Node
    ? element("td", {}, v) : element("td", typeof v === "number" ? { class: "n" } : {},
      typeof v === "number" ? number(v, 6) : v));

  function counts(holder, data) {
    draw(within(holder, "table"), data.nodes.map((n) => [n.totals, n.reasons, n.home]),
      (place) => {
        const states = Object.keys(WORDS).filter((word) =>
          ["selected", "excluded"].includes(word) || data.nodes.some((n) => n.totals[word]));
        place.replaceChildren(table(["node", "", "lives on", "kept", ...states, "refused for"],
          data.nodes.map((n) => element("tr", n.honest ? {} : { class: "attacker" },
            cells([n.node, n.honest ? "honest" : "Byzantine", n.home || "–",
              kept(n) === null ? "–" : inPercent(Math.round(1000 * kept(n)) / 1000),
              ...states.map((word) => n.totals[word]),
              Object.entries(n.reasons).map(([why, times]) => `${why} ${times}`).join(", ")
                || "–"])))));
      });
  }

  function events(holder, data) {
    holder.hidden = !data.events.length;
    draw(within(holder, "list", "ol", { class: "events" }), data.events, (list) =>
      list.replaceChildren(...[...data.events].reverse().map(([round, text]) =>
        element("li", {}, element("span", { class: "when" },
          round === null ? "" : `round ${round}`), " ", text))));
  }

  function options(holder, data) {
    draw(within(holder, "table"), [data.options, data.facts], (place) => {
      const row = ([name, value, changed]) => element("tr", changed ? { class: "changed" } : {},
        element("th", { scope: "row" }, name), element("td", {}, value));
      const changed = data.options.filter((option) => option[2]);
      const fold = (title, rows) => element("details", {}, element("summary", {}, title),
        element("table", { class: "options" }, element("tbody", {}, rows.map(row))));
      place.replaceChildren(
        element("table", { class: "options" }, element("tbody", {}, changed.map(row))),
        fold(`all ${data.options.length} options`, data.options),
        data.facts.length ? fold("versions and digests", data.facts) : "");
    });
  }

  // -- several runs

  function compare(parent, runs) {
    const marked = runs.map((data, i) =>
      ({ data, mark: "c" + i % 8 + (i < 8 ? "" : " dashed") }));
    within(parent, "head", "header").replaceChildren(
      element("p", { class: "brand" }, "byzpy_tw"), element("h1", {}, `${runs.length} runs`));
    const rounds = { span: Math.max(...runs.map((d) => d.rounds.span)),
      width: Math.max(...runs.map((d) => d.rounds.width)) };
    const grid = within(section(parent, "curves"), "grid", "div", { class: "grid" });
    const series = (name, dots) => marked.map(({ data, mark }) => ({
      name: data.name, mark, dots,
      values: widened(data.curves[name], rounds.width / data.rounds.width) }));
    for (const [name, title, dots, more] of [
      ["accuracy", "Accuracy on the test data", true,
        { show: inPercent, floor: 0, ceiling: 1 }],
      ["test_loss", "Loss on the test data", true, { show: number }],
      ["seconds", "Seconds a round", false, { show: duration, floor: 0 }]]) {
      draw(within(grid, name, "figure"), name, (holder) =>
        chart(holder, { title, rounds, series: series(name, dots), ...more }));
    }
    const holder = section(parent, "table", "Outcome");
    within(holder, "table").replaceChildren(table(
      ["", "run", "status", "rounds", "accuracy", "worst", "best", "a round",
        "refused or lost"],
      marked.map(({ data, mark }) => element("tr", {}, cells([
        element("i", { class: "swatch " + mark }), data.name, status(data.status),
        data.rounds.done, percent(data.figures.accuracy), percent(data.figures.worst_accuracy),
        percent(data.figures.best_accuracy), duration(data.figures.seconds_a_round),
        data.figures.charged])))));
    differences(section(parent, "differences", "Options that differ"), runs);
    for (const [i, data] of runs.entries()) {
      const one = section(parent, "run" + i, data.name);
      within(one, "told", "p").textContent = data.conclusion.join(" ");
      strips(one, data);
    }
  }

  function differences(holder, runs) {
    const names = [...new Set(runs.flatMap((data) => data.options.map((o) => o[0])))];
    const value = (data, name) => (data.options.find((o) => o[0] === name) || ["", "–"])[1];
    const rows = names.filter((name) => name !== "--run-dir" &&
      new Set(runs.map((data) => value(data, name))).size > 1);
    holder.append(rows.length ? table(["option", ...runs.map((data) => data.name)],
      rows.map((name) => element("tr", {}, cells([name, ...runs.map((d) => value(d, name))]))))
      : element("p", { class: "note" }, "none"));
  }

  // The same values in columns that are `times` as wide.
  function widened(values, times) {
    if (times <= 1) return values;
    const made = [];
    for (let i = 0; i < values.mean.length; i += times) {
      const there = values.mean.slice(i, i + times).filter((v) => v !== null);
      made.push(there.length ? there.reduce((a, b) => a + b, 0) / there.length : null);
    }
    return { mean: made };
  }

  // -- a run under way

  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  async function follow(url) {
    const banner = element("p", { class: "banner", hidden: "", role: "status" });
    page.before(banner);
    let seen = "", answered = Date.now();
    for (;;) {
      try {
        const answer = await fetch(url + "?since=" + encodeURIComponent(seen),
          { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error("HTTP " + answer.status);
        answered = Date.now();
        banner.hidden = true;
        if (answer.status !== 204) {
          seen = answer.headers.get("ETag") || "";
          const data = await answer.json();
          run(page, data);
          const { done, planned } = data.rounds;
          document.title = `${done}/${planned} ${data.name} · byzpy_tw`;
          if (OVER.includes(data.status)) {
            banner.hidden = false;
            banner.textContent = `The run is over (${data.status}), and so is this page: ` +
              "report.html in the run's folder has it all.";
            return;
          }
        }
      } catch (error) {
        const silent = Math.round((Date.now() - answered) / 1000);
        banner.hidden = silent < 3;
        banner.textContent = `The trainer has not answered for ${silent} s: it has ended, or ` +
          "cannot be reached. What is below is what it said last.";
      }
      await pause(document.hidden ? 4000 : 1000);
    }
  }

  const data = document.getElementById("data"), live = document.getElementById("follow");
  if (live) follow(live.dataset.url);
  else {
    const told = JSON.parse(data.textContent);
    if (told.runs) compare(page, told.runs);
    else run(page, told);
  }
})();
