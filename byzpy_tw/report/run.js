"use strict";
// The page of one run, of several side by side, or of one under way.
(() => {
  const { element, shape, number, measured, duration, roundsOf, showTip, watchScrolling,
    drawCharts } = byzpy;
  const page = document.getElementById("page");

  const STATES = { s: "selected", x: "excluded", r: "refused", t: "late", l: "lost",
    p: "probation", e: "replaced", n: "not-asked" }; // a letter of strips -> class and word
  const WORDS = { excluded: "excluded by the rule", probation: "on probation", lost: "absent",
    replaced: "absent, replaced by another", "not-asked": "not asked" };
  // Where `selected` is null in all records, nobody knows which vectors counted.
  const word = (state, { chooses }) => (state === "selected" && !chooses ? "given to the rule"
    : WORDS[state] || state);
  const verb = ({ chooses }) => (chooses ? "kept" : "given");
  const OVER = ["finished", "failed", "paused", "diverged", "interrupted"];

  // Calls `how(holder)` when `data` is not what it was, so that folds stay open.
  function draw(holder, data, how) {
    const text = JSON.stringify(data);
    if (holder.drawnFrom !== text) how(holder);
    holder.drawnFrom = text;
  }
  // The child of `parent` called `key`, made when it is first asked for.
  function part(parent, key, make) {
    let found = [...parent.children].find((child) => child.dataset.part === key);
    if (!found) parent.append(found = make());
    found.dataset.part = key;
    return found;
  }
  const within = (parent, key, name = "div") => part(parent, key, () => element(name));
  const section = (parent, key, title) => part(parent, key, () =>
    element("section", title && element("h2", title)));

  const words = (metric) => metric.name.replaceAll("_", " ");
  function bytes(value) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let i = 0;
    while (value >= 1000 && i < units.length - 1) [value, i] = [value / 1000, i + 1];
    return number(value) + " " + units[i];
  }
  const status = (word) => element("span.pill" + (OVER.includes(word) || word === "running"
    ? ".is-" + word : ""), word);
  const kept = ({ totals }) => {
    const all = Object.values(totals).reduce((a, b) => a + b, 0) - totals["not-asked"];
    return all ? Math.round(100 * totals.selected / all) + " %" : "";
  };

  const curves = (parent, charts) =>
    drawCharts(within(section(parent, "curves", "Curves"), "grid", "div.grid"), charts);

  // -- one run

  function run(parent, data) {
    heading(within(parent, "head", "header"), data);
    curves(parent, data.charts);
    strips(section(parent, "nodes", "Nodes, round by round"), data);
    places(within(section(parent, "places", "Where each node lives"), "list", "div.places"),
      data.places);
    counts(section(parent, "counts", "Each node's rounds, and why it was refused"), data);
    events(section(parent, "events", "What happened"), data.events);
    options(within(section(parent, "options", "Configuration"), "table"), data);
  }

  function heading(holder, data) {
    const { figures: f, rounds: r } = data, running = data.status === "running";
    const tile = (name, value, more) => element("div.tile", element("span.name", name),
      element("span.value", value), element("span.more", more));
    draw(within(holder, "title"), [data.name, data.status], (title) => title.replaceChildren(
      element("p.brand", "byzpy_tw"), element("h1", data.name, " ", status(data.status))));
    draw(within(holder, "told"), [data.conclusion, data.setting, data.note], (told) =>
      told.replaceChildren(element("p.conclusion", data.conclusion.join(" ")),
      data.setting.length ? element("p.setting", data.setting.join(" ")) : "",
      data.note ? element("p.warning", data.note) : ""));
    draw(within(holder, "tiles"), [data.status, data.metrics, f, r], (tiles) =>
      tiles.replaceChildren(
        element("div.tiles", tile("round", `${r.done}`, `of ${r.planned}`),
          data.metrics.map((m) => tile(words(m), measured(m.value, m), m.best === null ? ""
            : `worst ${measured(m.worst, m)}, best ${measured(m.best, m)}`)),
          tile("loss", number(f.test_loss ?? f.loss), f.test_loss === null
            ? "of the honest nodes" : `test; honest nodes ${number(f.loss)}`),
          tile("pace", f.seconds_a_round ? number(1 / f.seconds_a_round) + "/s" : "–",
            `${duration(f.seconds_a_round)} a round`),
          running ? tile("time left",
            duration(f.seconds_a_round && (r.planned - r.done) * f.seconds_a_round),
            `${duration(f.seconds)} so far`) : tile("time", duration(f.seconds), ""),
          tile("refused or absent", number(f.charged, 6), "node-rounds"),
          f.bytes[0] + f.bytes[1] === 0 ? "" : tile("traffic", bytes(f.bytes[0] + f.bytes[1]),
            `${bytes(f.bytes[0])} out, ${bytes(f.bytes[1])} in`))));
  }

  // A row of cells for each node, a column each.
  function strips(holder, { nodes, rounds, unshown }) {
    const used = new Set(["s", rounds.chooses ? "x" : "s", ...nodes.flatMap((node) => [...node.letters])]);
    within(holder, "legend", "p.legend").replaceChildren(...Object.entries(STATES)
      .filter(([letter]) => used.has(letter)).map(([, state]) => element("span.key",
        element("i.swatch.s-" + state), word(state, rounds))));
    const list = within(holder, "list", "div.strips");
    const rows = nodes.map((node) => {
      const row = part(list, "node" + node.node, () => element("div.strip",
        element("span.label", `node ${node.node}`,
          node.honest ? "" : element("b.byzantine", "Byzantine")),
        element("div.cells"), element("span.share")));
      row.dataset.node = node.node;
      row.dataset.states = node.letters;
      return row;
    });
    // Asked once, before anything is drawn: each answer costs a layout of the page.
    const across = rows[0]?.children[1].clientWidth || 400;
    for (const [i, node] of nodes.entries()) draw(rows[i].children[1], [rounds, node], (cells) => {
      strip(cells, across, rounds, node);
      rows[i].lastChild.textContent = kept(node) && `${kept(node)} ${verb(rounds)}`;
    });
    within(holder, "more", "p.note").textContent = [
      rounds.width > 1 ? `A cell is ${rounds.width} rounds; the height of its colour is the ` +
        "share of them." : "",
      unshown ? `${unshown} more nodes have no strip: rounds.jsonl names those that were asked.` : ""].join(" ").trim();
  }

  // `letters` and the shares `digits` and `excluded` are explained in RoundHistory.strips.
  function strip(holder, across, rounds, node) {
    const { letters, digits, excluded } = node, count = rounds.span / rounds.width, paths = {};
    const wide = count < 80 ? 0.9 : 1, least = 2 * count / across;
    [...letters].forEach((letter, i) => {
      if (letter === "n") return; // the strip's own background
      const tall = letter === "s" ? 0 : Math.max(3, 2 * digits[i]);
      const above = Math.min(18 - tall, 2 * excluded[i]);
      const box = (key, y, h) => { // what is rare is to be seen
        const w = key === "s" || key === "x" ? wide : Math.max(wide, least);
        if (h > 0) paths[key] = (paths[key] || "") + `M${i} ${y}h${w}v${h}h${-w}z`;
      };
      box("s", 0, 18 - tall - above);
      box("x", 18 - tall - above, above);
      box(letter, 18 - tall, tall);
    });
    const picture = holder.firstChild || pictureIn(holder);
    holder.shown = { rounds, node, count };
    picture.setAttribute("viewBox", `0 0 ${count} 18`);
    picture.setAttribute("aria-label", inWords(node, rounds));
    for (const path of picture.children) path.setAttribute("d", paths[path.dataset.letter] || "");
  }
  // "node 5, Byzantine: 28 % kept; selected 28, excluded by the rule 72"
  function inWords(node, rounds) {
    const states = Object.values(STATES).filter((state) => node.totals[state])
      .map((state) => `${word(state, rounds)} ${node.totals[state]}`);
    return `node ${node.node}, ${node.honest ? "honest" : "Byzantine"}: ${kept(node) || "nothing"} `
      + `${verb(rounds)}; ${states.join(", ") || "no rounds"}`;
  }
  // A strip's picture, which stays for all its figures: so does the keyboard's focus.
  function pictureIn(holder) {
    const picture = shape("svg", { preserveAspectRatio: "none", role: "img",
      tabindex: holder.parentElement.previousElementSibling ? -1 : 0,
      "aria-keyshortcuts": "ArrowLeft ArrowRight ArrowUp ArrowDown" });
    for (const letter of "sxrtlpe") {
      picture.append(shape("path", { class: "cell s-" + STATES[letter], "data-letter": letter }));
    }
    const tip = element("div.tip", { role: "status", hidden: "" });
    const point = (event) => {
      const at = event.clientX - holder.getBoundingClientRect().left;
      tellCell(holder, Math.floor(at / holder.clientWidth * holder.shown.count), at);
    };
    picture.addEventListener("pointermove", point);
    picture.addEventListener("pointerdown", point);
    for (const name of ["pointerleave", "blur"]) {
      picture.addEventListener(name, () => showTip(tip, null));
    }
    picture.addEventListener("keydown", (event) => moved(holder, event));
    holder.replaceChildren(picture, tip);
    return picture;
  }
  function tellCell(holder, i, at = (i + 0.5) / holder.shown.count * holder.clientWidth) {
    const { rounds, node: { node, letters, digits } } = holder.shown, state = STATES[letters[i]];
    const share = rounds.width === 1 || letters[i] === "s" ? ""
      : ` in about ${Math.round(100 * digits[i] / 9)} % of them`;
    showTip(holder.lastChild, state && [roundsOf(i, rounds),
      ["s-" + state, `node ${node}: ${word(state, rounds)}${share}`]], at);
  }
  // Arrows go to the cell before and after, and to the nodes above and below: of all strips
  // only one at a time is a stop of the tabulator key.
  function moved(holder, event) {
    const row = holder.parentElement, { letters } = holder.shown.node;
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = { ArrowUp: row.previousElementSibling,
      ArrowDown: row.nextElementSibling }[event.key];
    if (event.key === "Escape") return showTip(holder.lastChild, null);
    if (side === undefined && next === undefined) return;
    event.preventDefault();
    const at = row.parentElement.at ?? -1;
    row.parentElement.at = Math.max(0, Math.min(at + (side || 0), letters.length - 1));
    if (next === null) return;
    const cells = next ? next.querySelector(".cells") : holder;
    holder.firstChild.setAttribute("tabindex", -1);
    cells.firstChild.setAttribute("tabindex", 0);
    cells.firstChild.focus();
    tellCell(cells, row.parentElement.at);
  }

  function places(holder, servers) {
    draw(holder, servers, () => holder.replaceChildren(...servers.map(({ name, up, nodes, more }) =>
      element("div.place" + (up === false ? ".down" : ""), { "data-place": name },
        element("span", element("i.light." + (up ? "up" : "gone")), name),
        element("span.state", up === null ? "" : up ? "up" : "lost"),
        element("span.living", nodes.length ? "nodes " + nodes.join(", ") +
          (more ? ` and ${more} more` : "") : "no nodes"))),
    servers.length ? "" : element("p.note", "not on record")));
  }

  // -- tables

  // Sets the table of `holder`, in a box that scrolls and stays where it is when figures change.
  function table(holder, caption, heads, rows, classes = []) {
    const numeric = (v) => (typeof v === "number" ? ".n" : "");
    const cell = (v, i) => element((i ? "td" : "th") + numeric(v), i ? {} : { scope: "row" },
      typeof v === "number" ? number(v, 6) : v);
    const box = part(holder, "box", () => {
      const scroll = element("div.scroll", { role: "group", "aria-label": caption },
        element("table"));
      const made = element("div.shadowed", scroll);
      watchScrolling(scroll);
      return made;
    });
    box.querySelector("table").replaceChildren(element("caption.unseen", caption),
      element("thead", element("tr", heads.map((head, i) =>
        element("th" + numeric(rows[0]?.[i]), { scope: "col" }, head)))),
      element("tbody", rows.map((row, i) => element("tr" + (classes[i] || ""), row.map(cell)))));
  }

  function counts(holder, { nodes, rounds }) {
    const always = rounds.chooses ? ["selected", "excluded"] : ["selected"];
    const states = Object.values(STATES).filter((state) =>
      always.includes(state) || nodes.some((n) => n.totals[state]));
    const head = (state) => (state === "lost" || state === "selected" ? word(state, rounds)
      : state.replace("-", " "));
    const weighed = nodes.some((n) => n.weight !== null);
    const weight = (n) => (weighed ? [number(100 * n.weight) + " %"] : []);
    draw(within(holder, "table"), [nodes, rounds.chooses], (box) => table(box,
      "Rounds of each node, by its state", ["node", "kind", "lives on",
        ...(weighed ? ["weight"] : []), verb(rounds), ...states.map(head), "refused for"], nodes.map((n) => [n.node,
        n.honest ? "honest" : "Byzantine", n.home || "–", ...weight(n), kept(n) || "–",
        ...states.map((state) => n.totals[state]),
        Object.entries(n.reasons).map(([why, times]) => `${why} ${times}`).join(", ") || "–"]),
      nodes.map((n) => (n.honest ? "" : ".attacker"))));
  }

  function events(holder, lines) {
    holder.hidden = !lines.length;
    const box = part(holder, "list", () => element("ol.events", { "aria-label": "events" }));
    draw(box, lines, (list) =>
      list.replaceChildren(...[...lines].reverse().map(([round, text]) => element("li",
        element("span.when", round === null ? "" : `round ${round}`), " ", text))));
    if (!box.watched) box.watched = watchScrolling(box);
  }

  function options(holder, data) {
    const rows = (title, values) => element("table.options", element("caption.unseen", title),
      element("tbody",
      values.map(([name, value, changed]) => element("tr" + (changed ? ".changed" : ""),
        element("th", { scope: "row" }, name), element("td", value)))));
    const fold = (title, values) => element("details", element("summary", title),
      rows(title, values));
    draw(holder, [data.options, data.facts], () =>
      holder.replaceChildren(
        rows("options that were set", data.options.filter((option) => option[2])),
        fold(`all ${data.options.length} options`, data.options),
        data.facts.length ? fold("versions and digests", data.facts) : ""));
  }

  // -- several runs

  function compare(parent, { runs, charts }) {
    within(parent, "head", "header").replaceChildren(
      element("p.brand", "byzpy_tw"), element("h1", `${runs.length} runs`));
    curves(parent, charts);
    const like = (one) => (other) => one.name === other.name && one.unit === other.unit;
    const metrics = runs.flatMap((data) => data.metrics)
      .filter((m, i, all) => all.findIndex(like(m)) === i);
    const of = (m) => (metrics.length > 1 ? ", " + words(m) : "");
    table(section(parent, "table", "Outcome"), "Outcome of each run",
      ["run", "status", "rounds", ...metrics.flatMap((m) => [words(m), "worst" + of(m),
        "best" + of(m)]), "a round", "refused or absent (node-rounds)"],
      runs.map(({ name, status: word, rounds, figures: f, metrics: own }) => [name, status(word),
        rounds.done, ...metrics.map((m) => own.find(like(m)) || { format: "" }).flatMap((m) =>
          [m.value, m.worst, m.best].map((value) => measured(value, m))),
        duration(f.seconds_a_round), f.charged]));
    const value = (data, name) => (data.options.find((o) => o[0] === name) || ["", "–"])[1];
    const names = [...new Set(runs.flatMap((data) => data.options.filter((o) => o[3])
      .map((o) => o[0])))].filter((name) => new Set(runs.map((d) => value(d, name))).size > 1);
    const differences = section(parent, "differences", "Options that differ, of those that decide bits");
    if (!names.length) differences.append(element("p.note", "none"));
    else table(differences, "Options that differ between the runs",
      ["option", ...runs.map((data) => data.name)],
      names.map((name) => [name, ...runs.map((data) => value(data, name))]));
    for (const [i, data] of runs.entries()) {
      const one = section(parent, "run" + i, data.name);
      one.append(element("p", data.conclusion.join(" ")),
        data.setting.length ? element("p.setting", data.setting.join(" ")) : "");
      strips(one, data);
    }
  }

  // -- a run under way

  async function follow(url) {
    const banner = element("p.banner", { hidden: "", role: "status" });
    const say = (text) => { banner.textContent = text; banner.hidden = !text; };
    page.prepend(banner);
    for (let seen = "", answered = Date.now(), data; ; data = null) {
      try {
        const answer = await fetch(url + "?since=" + encodeURIComponent(seen),
          { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error("HTTP " + answer.status);
        data = answer.status === 204 ? null : await answer.json();
        seen = answer.headers.get("ETag") || "";
        answered = Date.now();
        say("");
      } catch (error) {
        const silent = Math.round((Date.now() - answered) / 1000);
        say(silent < 3 ? "" : `The trainer has not answered for ${silent} s: it has ended, or ` +
          "cannot be reached. What is below is what it said last.");
      }
      if (data) {
        run(page, data);
        document.title = `${data.rounds.done}/${data.rounds.planned} ${data.name} · byzpy_tw`;
        if (OVER.includes(data.status)) {
          return say(`The run is over (${data.status}), and so is this page: report.html in ` +
            "the run's folder has it all.");
        }
      }
      await new Promise((done) => setTimeout(done, document.hidden ? 4000 : 1000));
    }
  }

  const live = document.getElementById("follow");
  const data = live || JSON.parse(document.getElementById("data").textContent);
  if (live) follow(live.dataset.url);
  else if (data.runs) compare(page, data);
  else run(page, data);
})();
