"use strict";
// Pivots of a study's cells and comparisons over seeds, as byzpy_tw/sweep/pivot.py, paired.py,
// findings.py and scores.py make them.  Numbers in, numbers out: nothing here knows the page.
const pivots = (() => {
  const WORST = -1; // stands for a label: the worst case over an axis
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => (values.length ? sum(values) / values.length : null);
  function deviation(values) {
    if (values.length < 2) return null;
    const middle = mean(values);
    return Math.sqrt(sum(values.map((v) => (v - middle) ** 2)) / (values.length - 1));
  }
  const STATISTICS = { mean, deviation,
    min: (values) => (values.length ? Math.min(...values) : null),
    max: (values) => (values.length ? Math.max(...values) : null), count: (values) => values.length };

  const overlap = (a, b) => a.options.some((option) => b.options.includes(option));
  // The axes besides `taken`, which may be null; an axis of whole pipelines only where it is taken.
  const othersOf = (data, taken) => data.dimensions.filter((d) => !d.whole &&
    !taken.some((other) => other && overlap(d, other)));
  const labelIndex = (data, dimension, cell) =>
    data.cells.at[data.dimensions.indexOf(dimension)][cell];

  // A label that is understood by itself.
  const told = (dimension, label) => (["attack", "pipeline", "aggregator"].includes(dimension.name)
    ? label : `${dimension.title} = ${label}`);

  // A cell's values by seed, and what is to be said against them.
  function valueOf(data, metric, kind, cell) {
    const { cells } = data, bySeed = cells.values[metric]?.[kind].map((seed) => seed[cell]) || [];
    const values = bySeed.filter((v) => v !== null);
    const mark = cells.failed[cell] !== null ? "?" : cells.no_guarantee[cell] !== null ? "*" : "";
    return { cell, status: cells.status[cell], mark, bySeed, values, where: [], unknown: 0 };
  }
  // More is better; null where nothing is concluded.
  function goodness({ status, mark, values }, { better }) {
    if (status === "diverged") return -Infinity;
    if (!values.length || mark === "?") return null;
    return better === "lower" ? -mean(values) : mean(values);
  }
  // The worst of [labels, value], where labels are what it has instead of "worst".
  function worstOf(pairs, metric) {
    if (pairs.length === 1 && !pairs[0][0].length) return pairs[0][1];
    const known = pairs.map(([, value]) => goodness(value, metric));
    let worst = -1;
    known.forEach((good, i) => {
      if (good !== null && (worst < 0 || good < known[worst])) worst = i;
    });
    if (pairs.length === 1 || worst < 0) return pairs[0][1];
    const [labels, value] = pairs[worst], unknown = known.filter((good) => good === null).length;
    return { ...value, where: [...labels, ...value.where], unknown: unknown || value.unknown };
  }

  // choice: { rows, columns: axes or null; others: [axis, "each" | "worst" | number of a label];
  // metric: its number; kind }.  A table has `blocks` of rows; rows and columns have label numbers.
  function pivot(data, { rows, columns, others, metric, kind }) {
    const each = others.filter(([, how]) => how === "each").map(([d]) => d);
    const over = others.filter(([, how]) => how === "worst").map(([d]) => d);
    const fixed = others.filter(([, how]) => typeof how === "number");
    const found = new Map(), described = data.metrics[metric];
    for (let cell = 0; cell < data.cells.status.length; cell++) {
      if (!fixed.every(([d, label]) => labelIndex(data, d, cell) === label)) continue;
      const numbers = (part) => part.map((d) => (d ? labelIndex(data, d, cell) : 0));
      const key = [...numbers(each), ...numbers([rows, columns])].join();
      if (!found.has(key)) found.set(key, []);
      found.get(key).push([over.map((d) => told(d, d.values[labelIndex(data, d, cell)])),
        valueOf(data, metric, kind, cell)]);
    }
    const cells = new Map([...found].map(([key, pairs]) => [key, worstOf(pairs, described)]));
    const keys = [...cells.keys()].map((key) => key.split(",").map(Number));
    const distinct = (at) => [...new Set(keys.map((key) => key.at(at)))].sort((a, b) => a - b);
    const blocks = unique(keys.map((key) => key.slice(0, -2)));
    const table = { blocks, rows: distinct(-2), columns: distinct(-1), cells, each };
    if (columns?.name === "attack") addWorst(table, "columns", columns, described);
    if (rows?.name === "attack") addWorst(table, "rows", rows, described);
    return table;
  }
  function unique(keys) {
    const known = new Map(keys.map((key) => [key.join(), key]));
    return [...known.values()].sort((a, b) => a.map((v, i) => v - b[i]).find((v) => v) || 0);
  }
  const at = (block, row, column) => [...block, row, column].join();
  function addWorst(table, part, dimension, metric) {
    const labels = [...table[part]];
    if (labels.length < 2) return;
    for (const block of table.blocks) {
      for (const line of table[part === "rows" ? "columns" : "rows"]) {
        const key = (label) => (part === "rows" ? at(block, label, line) : at(block, line, label));
        const pairs = labels.filter((label) => table.cells.has(key(label)))
          .map((label) => [[dimension.values[label]], table.cells.get(key(label))]);
        if (pairs.length) table.cells.set(key(WORST), worstOf(pairs, metric));
      }
    }
    table[part].push(WORST);
  }

  // -- findings: far below the best of its row or column, or near chance

  function relative(metric, good, best) {
    if (good === best) return 0;
    return best ? (best - good) / Math.abs(best) / (metric.better === "lower" ? 2 : 0.5) : Infinity;
  }
  function isFar(metric, good, best) {
    if (!isFinite(good)) return true;
    return metric.share ? best - good >= 0.3 : relative(metric, good, best) >= 1;
  }
  function isNearChance(metric, good) {
    const { chance, better, share } = metric, sign = better === "lower" ? -1 : 1;
    if (chance === null) return false;
    const toLearn = share ? (better === "lower" ? chance : 1 - chance) : Math.abs(chance);
    return toLearn > 0 && good - sign * chance < 0.1 * toLearn;
  }
  // The keys of the cells that have fallen, of a table of final values.
  function fallen(table, metric) {
    const told = new Set();
    for (const block of table.blocks) {
      const good = new Map(), rows = table.rows.filter((r) => r !== WORST);
      const columns = table.columns.filter((c) => c !== WORST);
      const best = { row: new Map(), column: new Map() };
      const raise = (map, label, value) =>
        map.set(label, Math.max(map.get(label) ?? -Infinity, value));
      for (const row of rows) for (const column of columns) {
        const value = table.cells.get(at(block, row, column));
        const here = value && goodness(value, metric);
        if (here === null || here === undefined) continue;
        good.set(at(block, row, column), [here, row, column]);
        raise(best.row, row, here);
        raise(best.column, column, here);
      }
      for (const [key, [here, row, column]] of good) {
        if (isFar(metric, here, best.row.get(row)) || isFar(metric, here, best.column.get(column)) ||
          isNearChance(metric, here)) told.add(key);
      }
    }
    return told;
  }
  // From 0 to 1 for a colour; null for what shows nothing.
  function score(metric, good, best) {
    if (good === null) return null;
    if (!isFinite(good)) return 0;
    if (metric.share) return Math.min(Math.max(good + (metric.better === "lower" ? 1 : 0), 0), 1);
    return 0.5 ** relative(metric, good, best);
  }

  // -- paired comparisons

  // For each label of `axis` but `base`: the differences to it by seed, over all cells that are
  // `chosen` and have values of both for each seed.
  function compare(data, axis, base, metric, kind, chosen) {
    const others = othersOf(data, [axis]), byLabel = axis.values.map(() => new Map());
    for (let cell = 0; cell < data.cells.status.length; cell++) {
      if (!chosen(cell)) continue;
      const key = others.map((d) => labelIndex(data, d, cell)).join();
      byLabel[labelIndex(data, axis, cell)].set(key, valueOf(data, metric, kind, cell));
    }
    return axis.values.map((label, i) => {
      if (i === base) return null;
      const both = [...byLabel[i].keys()].filter((key) => byLabel[base].has(key));
      const pairs = both.map((key) => [byLabel[i].get(key), byLabel[base].get(key)]);
      const seeds = data.seeds.map((_, s) => s).filter((s) =>
        pairs.some((pair) => pair.some((value) => (value.bySeed[s] ?? null) !== null)));
      const whole = pairs.filter((pair) => pair.every((value) => value.mark !== "?" &&
        seeds.every((s) => (value.bySeed[s] ?? null) !== null)));
      const differences = whole.length ? seeds.map((s) =>
        mean(whole.map(([ours, theirs]) => ours.bySeed[s] - theirs.bySeed[s]))) : [];
      return { label, differences, cells: whole.length, leftOut: both.length - whole.length,
        ...shown(differences, data.metrics[metric], data.quantiles) };
    }).filter(Boolean);
  }
  function shown(differences, { better }, quantiles) {
    const count = differences.length, middle = mean(differences), t = quantiles[count - 2];
    const half = count > 1 && t ? t * deviation(differences) / Math.sqrt(count) : null;
    const wins = differences.filter((d) => (better === "lower" ? d < 0 : d > 0)).length;
    const losses = differences.filter((d) => d !== 0).length - wins;
    let tail = 0, ways = 1;
    for (let k = 0; k <= Math.min(wins, losses); k++) {
      tail += ways;
      ways = ways * (wins + losses - k) / (k + 1);
    }
    return { mean: middle, interval: half === null ? null : [middle - half, middle + half], wins,
      losses, signTest: count < 6 ? null : Math.min(1, 2 * tail / 2 ** (wins + losses)) };
  }

  return { WORST, STATISTICS, othersOf, labelIndex, valueOf, goodness, pivot, at, fallen, score,
    compare };
})();
