"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);

  const [LIGHT, DARK] = [document.body.dataset.light, document.body.dataset.dark].map((colours) => colours.split(" "));
  // Shapes repeat what the colours say.
  const SHAPES = ["circle", "triangle", "rect", "rectRot", "star", "crossRot", "cross", "rectRounded"];

  const names = [...new Set(Object.values(report.devices).flatMap((device) => Object.keys(device.variants)))];
  // The reference is grey wherever it stands.
  if (names.includes(report.reference)) names.unshift(...names.splice(names.indexOf(report.reference), 1));
  const index = (name) => Math.max(0, names.indexOf(name)) % LIGHT.length;
  const darkQuery = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => darkQuery.matches && !printing;
  const color = (name) => (isDark() ? DARK : LIGHT)[index(name)];
  const css = (variable) => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
  const ink = () => (printing ? { text: "#000", soft: "#444", line: "#ddd" } : { text: css("--ink"), soft: css("--soft"), line: css("--line") });

  // Numbers as the tables show them.
  const digits = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)) >= 1000 ? value.toFixed(0) : String(value.toPrecision(3)));
  const duration = (ns) => {
    const [scale, unit] = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]].find(([scale]) => ns >= 0.9995 * scale) || [1, "ns"];
    return `${digits(ns / scale)} ${unit}`;
  };
  const short = (ns) => duration(ns).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
  const percent = (fraction, decimals = 2) => `${(100 * fraction).toFixed(decimals)} %`;

  // Ticks of a logarithmic axis: 1-2-5 steps (fewer over many decades), and plain steps where the range is too narrow for them.
  const logTicks = (axis) => {
    const steps = axis.max / axis.min > 300 ? [1] : axis.max / axis.min > 50 ? [1, 3] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(Math.log10(axis.min)); power <= Math.log10(axis.max); power++)
      for (const step of steps) {
        const value = step * 10 ** power;
        if (value >= axis.min && value <= axis.max) found.push({ value });
      }
    if (found.length < 3) {
      const step = 10 ** Math.floor(Math.log10((axis.max - axis.min) / 2));
      const every = [1, 2, 5].map((n) => n * step).find((n) => (axis.max - axis.min) / n <= 6) || 10 * step;
      found.length = 0;
      for (let value = Math.ceil(axis.min / every) * every; value <= axis.max; value += every) found.push({ value });
    }
    axis.ticks = found;
  };
  const logAxis = (title, min, max, text = short) => ({
    type: "logarithmic", min, max, afterBuildTicks: logTicks,
    title: { display: true, text: title }, ticks: { callback: (value) => text(value), maxRotation: 0 },
  });

  // Error bars both ways, and the name beside each point.
  const errorBars = {
    id: "errorBars",
    afterDatasetsDraw(chart) {
      const { ctx, scales: { x, y }, chartArea } = chart;
      const taken = [];
      ctx.save();
      ctx.lineWidth = 1.5;
      ctx.font = `600 12px ${Chart.defaults.font.family}`;
      ctx.textBaseline = "middle";
      chart.data.datasets.forEach((set, k) => {
        if (!set.bars || !chart.isDatasetVisible(k)) return;
        const { bars, data: [point] } = set;
        ctx.strokeStyle = ctx.fillStyle = set.borderColor;
        ctx.globalAlpha = 0.75;
        ctx.beginPath();
        const [px, py] = [x.getPixelForValue(point.x), y.getPixelForValue(point.y)];
        if (bars.x) {
          const [from, to] = bars.x.map((value) => x.getPixelForValue(value));
          ctx.moveTo(from, py); ctx.lineTo(to, py);
          for (const end of [from, to]) { ctx.moveTo(end, py - 4); ctx.lineTo(end, py + 4); }
        }
        if (bars.y) {
          const [from, to] = bars.y.map((value) => y.getPixelForValue(value));
          ctx.moveTo(px, from); ctx.lineTo(px, to);
          for (const end of [from, to]) { ctx.moveTo(px - 4, end); ctx.lineTo(px + 4, end); }
        }
        ctx.stroke();
        ctx.globalAlpha = 1;
        if (set.hollow) return; // it has the name and the colour of the filled one
        const label = set.label.length > 22 ? `${set.label.slice(0, 21)}…` : set.label;
        const width = ctx.measureText(label).width;
        const left = px + 10 + width > chartArea.right ? px - 10 - width : px + 10;
        let top = py - 10;
        while (taken.some((box) => Math.abs(box.top - top) < 14 && left < box.right && box.left < left + width)) top += 14;
        taken.push({ top, left, right: left + width });
        ctx.fillText(label, left, top);
      });
      ctx.restore();
    },
  };

  const base = (scales, tooltip, legend) => ({
    responsive: true, maintainAspectRatio: false, animation: false,
    interaction: { mode: "nearest", intersect: false },
    scales,
    plugins: {
      legend: { display: legend, position: "bottom", labels: { usePointStyle: true, boxHeight: 7 } },
      tooltip: { callbacks: tooltip, usePointStyle: true, padding: 10, displayColors: true },
    },
  });

  function plane(device) {
    const shown = Object.entries(device.variants).filter(([, v]) => v.accuracy !== null && v.latency_ns);
    if (!shown.length) return null;
    const xs = shown.flatMap(([, v]) => v.latency_ns.p50_ci), ys = shown.flatMap(([, v]) => v.accuracy_ci);
    const [low, high] = [Math.min(...ys), Math.max(...ys)], room = Math.max(0.05 * (high - low), 0.001);
    const tooltip = {
      title: ([item]) => item.dataset.label,
      label: ({ dataset: { of: v } }) => [
        `accuracy ${percent(v.accuracy)}  (${percent(v.accuracy_ci[0])} to ${percent(v.accuracy_ci[1])})`,
        `p50 ${duration(v.latency_ns.p50)}  (${duration(v.latency_ns.p50_ci[0])} to ${duration(v.latency_ns.p50_ci[1])})`,
        ...(v.speedup === null ? [] : [`speed-up ${v.speedup.toFixed(2)}x  (${v.speedup_ci[0].toFixed(2)} to ${v.speedup_ci[1].toFixed(2)})`]),
      ],
    };
    return {
      type: "scatter",
      data: { datasets: shown.map(([name, v]) => ({
        label: name, of: v, variant: name, data: [{ x: v.latency_ns.p50, y: v.accuracy }],
        bars: { x: v.latency_ns.p50_ci, y: v.accuracy_ci },
        pointStyle: SHAPES[index(name)], pointRadius: 6, pointHoverRadius: 8, borderWidth: 2,
      })) },
      options: base({
        x: logAxis("latency p50, batch " + device.batch_size, Math.min(...xs) / 1.25, Math.max(...xs) * 1.5),
        y: { min: Math.max(0, low - room), max: Math.min(1, high + room), title: { display: true, text: report.metric },
             ticks: { callback: (value) => percent(value, 1), includeBounds: false } },
      }, tooltip, false),
      plugins: [errorBars],
    };
  }

  // Speed-up and drop of what was measured; faint, the finalists as predicted, after their short training.
  function front(device, name) {
    const shown = Object.entries(device.variants).filter(([, v]) => v.drop_pp !== null && v.speedup !== null);
    if (!shown.length) return null;
    const ys = shown.flatMap(([, v]) => v.drop_pp_ci);
    const best = device.variants[report.reference].validation.accuracy;
    const tried = best === null ? [] : Object.entries(report.budget.points).flatMap(([point, { finalists }]) => finalists
      .filter((one) => one.validation !== null && one.predicted[name])
      .map((one) => ({ x: Math.max(...Object.values(one.predicted[name])), y: 100 * (best - one.validation), point, how: one.how })));
    const tooltip = {
      title: ([item]) => item.dataset.label,
      label: ({ raw, dataset: { of: v } }) => v
        ? [`drop ${v.drop_pp.toFixed(2)} pp  (${v.drop_pp_ci.map((end) => end.toFixed(2)).join(" to ")})`,
           `speed-up ${v.speedup.toFixed(2)}x  (${v.speedup_ci.map((end) => end.toFixed(2)).join(" to ")})`]
        : `${raw.point}, ${raw.how}: ${raw.x.toFixed(2)}x predicted, ${raw.y.toFixed(2)} pp after a short training`,
    };
    const faint = { label: "finalists, predicted", faint: true, data: tried, hollow: true, pointRadius: 4, borderWidth: 1, ink: true };
    return {
      type: "scatter",
      data: { datasets: [...shown.map(([name, v]) => ({
        label: name, of: v, variant: name, data: [{ x: v.speedup, y: v.drop_pp }], bars: { x: v.speedup_ci, y: v.drop_pp_ci },
        pointStyle: SHAPES[index(name)], pointRadius: 6, pointHoverRadius: 8, borderWidth: 2,
      })), ...(tried.length ? [faint] : [])] },
      options: base({
        x: { min: 0, title: { display: true, text: "speed-up over " + report.reference }, ticks: { callback: (value) => `${value}x` } },
        y: { suggestedMin: Math.min(...ys), suggestedMax: Math.max(...ys), title: { display: true, text: "drop, pp" } },
      }, tooltip, false),
      plugins: [errorBars],
    };
  }

  function distribution(device) {
    if (!device.distribution) return null;
    const { probabilities, latency_ns: by } = device.distribution;
    const last = probabilities.findLastIndex((p) => p < 1);
    const p99 = probabilities.findIndex((p) => p >= 0.99);
    const starts = Object.values(by).map((q) => q[0]), ends = Object.values(by).map((q) => q[p99]);
    const tooltip = {
      title: ([item]) => item.dataset.label,
      label: ({ raw }) => `${percent(raw.y, raw.y > 0.985 ? 1 : 0)} of calls within ${duration(raw.x)}`,
      afterLabel: ({ dataset }) => {
        const l = device.variants[dataset.variant].latency_ns;
        return `p50 ${duration(l.p50)}, p90 ${duration(l.p90)}, p99 ${duration(l.p99)}, ${l.n} calls`;
      },
    };
    return {
      type: "line",
      data: { datasets: Object.entries(by).map(([name, q]) => ({
        label: name, variant: name, data: probabilities.slice(0, last + 1).map((y, k) => ({ x: q[k], y })),
        borderWidth: 2, pointRadius: 0, pointHitRadius: 8, pointStyle: SHAPES[index(name)], tension: 0,
      })) },
      options: base({
        x: logAxis("latency of a call", Math.min(...starts) / 1.05, Math.max(...ends) * 1.15),
        y: { min: 0, max: 1, title: { display: true, text: "share of calls" }, ticks: { callback: (value) => percent(value, 0) } },
      }, tooltip, true),
    };
  }

  // The windows behind the power: in the variant's colour, grey while idle, only outlined when rejected.
  const shades = {
    id: "shades",
    beforeDatasetsDraw(chart) {
      const { ctx, scales: { x }, chartArea: { left, right, top, bottom } } = chart;
      ctx.save();
      ctx.beginPath(); ctx.rect(left, top, right - left, bottom - top); ctx.clip();
      for (const window of chart.config.options.windows) {
        const from = x.getPixelForValue(window.start_s), to = x.getPixelForValue(window.end_s);
        ctx.fillStyle = ctx.strokeStyle = window.variant === null ? ink().soft : color(window.variant);
        ctx.globalAlpha = window.rejected !== null ? 0.8 : window.variant === null ? 0.07 : 0.24;
        if (window.rejected === null) ctx.fillRect(from, top, to - from, bottom - top);
        else { ctx.setLineDash([3, 3]); ctx.strokeRect(from, top + 1, to - from, bottom - top - 2); ctx.setLineDash([]); }
      }
      ctx.restore();
    },
  };

  const scaled = (value, steps) => {
    const [scale, unit] = steps.find(([scale]) => Math.abs(value) >= 0.9995 * scale) || steps[steps.length - 1];
    return `${value < 0 ? "-" : ""}${digits(Math.abs(value) / scale)} ${unit}`;
  };
  const joule = (value) => scaled(value, [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]]);
  const watt = (value) => scaled(value, [[1, "W"], [1e-3, "mW"]]);
  const tick = (text) => (value) => (value === 0 ? "0" : text(value).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " "));

  function power(device) {
    const { trace, windows } = device.energy;
    if (!trace || !trace.time_s.length) return null;
    const tooltip = {
      title: ([item]) => {
        const window = windows.find((w) => w.start_s <= item.parsed.x && item.parsed.x <= w.end_s);
        return window ? (window.variant ?? "idle") + (window.rejected === null ? "" : ", rejected: " + window.rejected) : "between windows";
      },
      label: ({ raw }) => `${watt(raw.y)} at ${raw.x.toFixed(1)} s`,
    };
    return {
      type: "line",
      data: { datasets: [{
        label: "total", ink: true, data: trace.time_s.map((x, k) => ({ x, y: trace.power_w[k] })),
        borderWidth: 1.2, pointRadius: 0, pointHitRadius: 6, tension: 0, spanGaps: false,
      }] },
      options: { windows, ...base({
        x: { type: "linear", min: trace.time_s[0], max: trace.time_s[trace.time_s.length - 1],
             title: { display: true, text: "seconds since the first window" }, ticks: { maxRotation: 0, includeBounds: false } },
        y: { beginAtZero: true, title: { display: true, text: "power" }, ticks: { callback: tick(watt) } },
      }, tooltip, false) },
      plugins: [shades],
    };
  }

  function joules(device) {
    const shown = Object.entries(device.variants).filter(([, v]) => v.energy_j !== null);
    if (!shown.length) return null;
    const point = (name, v, value, ci, y, hollow) => ({
      label: hollow ? `${name}, above idling` : name, of: v, variant: name, hollow, data: [{ x: value, y }], bars: { x: ci },
      pointStyle: SHAPES[index(name)], pointRadius: 6, pointHoverRadius: 8, borderWidth: 2,
    });
    const tooltip = {
      title: ([item]) => item.dataset.label,
      label: ({ dataset, raw }) => [
        `${joule(raw.x)}  (${dataset.bars.x.map(joule).join(" to ")})`,
        `mean power ${watt(dataset.of.energy_detail.mean_power_w)}, ${dataset.of.energy_detail.windows} windows`,
      ],
    };
    const rows = shown.flatMap(([name, v], k) => {
      const { dynamic_j: above, dynamic_j_ci: ci } = v.energy_detail;
      return [point(name, v, v.energy_j, v.energy_j_ci, 2 * k, false), ...(above === null ? [] : [point(name, v, above, ci, 2 * k + 0.9, true)])];
    });
    const most = Math.max(...rows.flatMap(({ bars }) => bars.x)), least = Math.min(0, ...rows.flatMap(({ bars }) => bars.x));
    return {
      type: "scatter",
      data: { datasets: rows },
      options: base({
        x: { min: least * 1.1, max: most * 1.25, title: { display: true, text: "per inference" + (device.batch_size > 1 ? ` of ${device.batch_size} samples` : "") },
             ticks: { callback: tick(joule), includeBounds: false, maxRotation: 0 } },
        y: { reverse: true, min: -0.8, max: 2 * shown.length - 0.3, ticks: { display: false }, grid: { display: false } },
      }, tooltip, false),
      plugins: [errorBars],
    };
  }

  const factsOf = (stage) => report.stages.find((s) => s.name === stage).facts;
  const epochOf = (stage, i) => factsOf(stage).curves?.epoch?.[i] ?? i + 1;
  const shareTick = (value, _, ticks) => percent(value, ticks.length > 1 && ticks[1].value - ticks[0].value < 0.0099 ? 1 : 0);
  const epochTitle = { title: { display: true, text: "epoch" } };

  function curve(stage) {
    const kept = factsOf(stage).curves;
    const series = Object.entries(kept).filter(([name, values]) => !["epoch", "learning_rate"].includes(name) && values && values.length);
    const isShare = (name) => /accuracy|agreement|^validation$/.test(name); // "validation" is the task's score
    const both = series.some(([name]) => isShare(name)) && series.some(([name]) => !isShare(name));
    const label = ({ dataset, raw }) => `${dataset.label} ${isShare(dataset.label) ? percent(raw.y) : digits(raw.y)}`;
    return {
      type: "line",
      data: { datasets: series.map(([name, values], k) => ({
        label: name.replaceAll("_", " "), series: k + 1, yAxisID: both && isShare(name) ? "share" : "y",
        data: values.map((y, i) => ({ x: kept.epoch ? kept.epoch[i] : i + 1, y })),
        borderWidth: 2, pointRadius: values.length > 40 ? 0 : 2.5, pointStyle: SHAPES[(k + 1) % SHAPES.length], tension: 0,
      })) },
      options: base({
        x: { type: "linear", ticks: { precision: 0 }, ...epochTitle },
        y: { title: { display: true, text: both ? "loss" : "" } },
        ...(both ? { share: { position: "right", grid: { drawOnChartArea: false }, ticks: { callback: shareTick } } } : {}),
      }, { title: ([item]) => `epoch ${item.parsed.x}`, label }, true),
    };
  }

  function shares(stage) {
    const terms = Object.entries(factsOf(stage).terms), epochs = terms[0][1].share.map((_, i) => epochOf(stage, i));
    const options = base({
      x: { stacked: true, ticks: { maxRotation: 0 }, ...epochTitle },
      y: { stacked: true, min: 0, max: 1, title: { display: true, text: "share of the loss" }, ticks: { callback: (value) => percent(value, 0) } },
    }, { title: ([item]) => `epoch ${item.label}`, label: ({ dataset, raw }) => `${dataset.label} ${percent(raw, 1)}` }, true);
    options.interaction = { mode: "index", intersect: false };
    return {
      type: "bar",
      data: { labels: epochs, datasets: terms.map(([name, { share }], k) => ({
        label: name, series: k + 1, data: share, pointStyle: "rect", borderWidth: 0,
        barPercentage: 1, categoryPercentage: epochs.length > 40 ? 1 : 0.85,
      })) },
      options,
    };
  }

  function norms(stage) {
    const terms = Object.entries(factsOf(stage).terms).map(([name, { gradient_norm: norm }]) => [name, norm.map((y) => (y > 0 ? y : null))]);
    const known = terms.flatMap(([, norm]) => norm.filter((y) => y !== null));
    return {
      type: "line",
      data: { datasets: terms.map(([name, norm], k) => ({
        label: name, series: k + 1, data: norm.map((y, i) => ({ x: epochOf(stage, i), y })),
        borderWidth: 2, pointRadius: norm.length > 40 ? 0 : 2.5, pointStyle: SHAPES[(k + 1) % SHAPES.length], tension: 0,
      })) },
      options: base({
        x: { type: "linear", ticks: { precision: 0 }, ...epochTitle },
        y: logAxis("gradient norm", Math.min(...known) / 1.25, Math.max(...known) * 1.25, (value) => String(Number(value.toPrecision(3)))),
      }, { title: ([item]) => `epoch ${item.parsed.x}`, label: ({ dataset, raw }) => `${dataset.label} ${digits(raw.y)}` }, true),
    };
  }

  const tint = (set) => {
    const shade = set.ink ? ink().text : set.variant === undefined ? (isDark() ? DARK : LIGHT)[set.series % LIGHT.length] : color(set.variant);
    for (const part of ["borderColor", "backgroundColor", "pointBorderColor", "pointBackgroundColor"]) set[part] = shade;
    if (set.hollow) set.pointBackgroundColor = "transparent";
  };

  const charts = [];
  function paint() {
    const { text, soft, line } = ink();
    Chart.defaults.color = soft;
    Chart.defaults.borderColor = line;
    for (const chart of charts) {
      chart.data.datasets.forEach(tint);
      for (const axis of Object.values(chart.options.scales)) {
        axis.ticks.color = axis.title.color = soft;
        axis.grid.color = axis.border.color = line;
      }
      chart.options.plugins.legend.labels.color = text;
      chart.update("none");
    }
    for (const element of document.querySelectorAll("[data-variant]"))
      element.style.backgroundColor = color(element.dataset.variant);
  }

  function draw() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
    Chart.defaults.plugins.colors.enabled = false;
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
      const { chart, device, stage } = canvas.dataset;
      const config = stage ? { curve, shares, norms }[chart](stage) : { plane, front, distribution, power, joules }[chart](report.devices[device], device);
      if (config) {
        for (const axis of Object.values(config.options.scales)) { axis.grid ??= {}; axis.border ??= {}; axis.ticks ??= {}; axis.title ??= {}; }
        config.data.datasets.forEach(tint);
        charts.push(new Chart(canvas, config));
      } else {
        const empty = document.createElement("p");
        empty.className = "empty";
        empty.textContent = "Not measured: see the reasons below the table.";
        canvas.replaceWith(empty);
      }
    }
    paint();
  }

  // A click on a header sorts by it: descending, ascending, as it was.
  function sortable(table) {
    const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const next = { undefined: "descending", descending: "ascending" }[head.getAttribute("aria-sort") ?? undefined];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      // Numbers by size, names by letter; what was not measured stays last.
      const key = (row) => row.cells[column].dataset.value;
      const order = (a, b) => (Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : a - b);
      const sign = next === "ascending" ? 1 : -1;
      const sorted = !next ? original : [...original].sort((a, b) =>
        key(a) === undefined || key(b) === undefined ? (key(a) === undefined) - (key(b) === undefined) : sign * order(key(a), key(b)));
      body.append(...sorted);
    }));
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  draw();
  darkQuery.addEventListener("change", paint);
  const forPrint = (on) => () => { printing = on; paint(); charts.forEach((chart) => chart.resize()); };
  addEventListener("beforeprint", forPrint(true));
  addEventListener("afterprint", forPrint(false));
})();
