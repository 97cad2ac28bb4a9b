/* The page's figures, drawn when they are looked at, and its table of trials. No framework, nothing is loaded. */
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id)?.textContent || "null");
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  /* Figures */

  // What the figures were made with, for a light page, and what stands for it on a dark one.
  const ON_DARK = {
    "#0072B2": "#56B4E9", "#E69F00": "#E69F00", "#D55E00": "#EF8038", "#8C8C8C": "#8F9499",
    "#222222": "#E9E7E2", "#D9D9D9": "#4A5058", "#FFFFFF": "#15171A",
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)");
  const PRINTED = { full: 660, small: 320 };
  const figures = read("figures") || {};
  const drawn = new Set();
  let printing = false;

  const isDark = () => dark.matches && !printing;
  const recoloured = (value) => {
    if (Array.isArray(value)) return value.map(recoloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recoloured(inner)]));
    }
    return (typeof value === "string" && ON_DARK[value]) || value;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const axis = (given, colours) => ({
    automargin: true, gridcolor: colours.line, linecolor: colours.muted, tickcolor: colours.muted, ticks: "outside",
    ticklen: 4, zeroline: false, ...given,
    title: { standoff: 10, ...given?.title, font: { size: 13, color: colours.muted } },
  });

  const layoutOf = (plot, given) => {
    const colours = isDark()
      ? { ink: "#E9E7E2", muted: "#A4A8AD", line: "#30343A", paper: "#1D2025" }
      : { ink: "#1D1D1B", muted: "#5C6064", line: "#E3E3DE", paper: "#FFFFFF" };
    const small = plot.closest(".small") !== null;
    const width = printing ? (small ? PRINTED.small : PRINTED.full) : undefined;
    const narrow = (width ?? plot.clientWidth) < 520;
    const entries = given.showlegend === false ? 0 : 1;
    return {
      ...given,
      xaxis: axis(given.xaxis, colours),
      yaxis: axis(given.yaxis, colours),
      autosize: !printing, width,
      height: Number(plot.dataset.height) + (narrow && !small && entries ? 50 : 0),
      margin: { l: narrow ? 44 : 56, r: 12, t: entries ? 12 : 8, b: 44 },
      font: { family: getComputedStyle(document.querySelector("figcaption, .note, .beside")).fontFamily, size: small ? 11 : 12.5, color: colours.ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.01, yanchor: "bottom", font: { color: colours.muted }, itemsizing: "constant" },
      hoverlabel: { bgcolor: colours.paper, bordercolor: colours.muted, font: { color: colours.ink, size: 12.5 }, align: "left" },
      dragmode: coarse.matches ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.line, activecolor: colours.muted },
    };
  };

  const SETTINGS = {
    displaylogo: false, responsive: true, scrollZoom: false, displayModeBar: coarse.matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  const draw = (plot) => {
    const figure = plot.figure || figures[plot.dataset.figure];
    if (!figure) return;
    const data = isDark() ? recoloured(figure.data) : structuredClone(figure.data);
    const given = isDark() ? recoloured(figure.layout) : structuredClone(figure.layout);
    const first = !drawn.has(plot);
    drawn.add(plot);
    Plotly.react(plot, data, layoutOf(plot, given), SETTINGS);
    if (first) {
      plot.on("plotly_click", (event) => {
        const number = event.points[0]?.customdata;
        if (Number.isInteger(number) && !coarse.matches) location.hash = `trial-${number}`;
      });
    }
  };

  const plots = () => [...document.querySelectorAll(".plot")];
  const drawMissing = () => plots().filter((plot) => !drawn.has(plot)).forEach(draw);
  const redraw = () => plots().filter((plot) => drawn.has(plot)).forEach(draw);

  const begin = () => {
    // Those in sight first; the others when there is nothing else to do, so that scrolling meets none that is blank.
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting && !drawn.has(target)) { seen.unobserve(target); draw(target); }
      }
    }, { rootMargin: "200px" });
    plots().forEach((plot) => seen.observe(plot));
    const later = window.requestIdleCallback || ((call) => setTimeout(call, 50));
    const next = () => {
      const plot = plots().find((each) => !drawn.has(each));
      if (plot) { draw(plot); later(next); }
    };
    setTimeout(() => later(next), 400);
    dark.addEventListener("change", redraw);
  };

  // Plotly is as long as a book: it is read when the text stands on the screen.
  const load = () => {
    const text = document.getElementById("plotly");
    if (!text || window.Plotly) return;
    document.head.append(element("script", { textContent: text.textContent }));
    begin();
    plots().filter((plot) => plot.figure).forEach(draw);
  };
  requestAnimationFrame(() => setTimeout(load, 0));

  const print = (begins) => {
    if (printing === begins) return;
    printing = begins;
    if (begins) {
      document.querySelectorAll("details:not([open])").forEach((each) => { each.open = true; each.dataset.closed = ""; });
    } else {
      document.querySelectorAll("details[data-closed]").forEach((each) => { each.open = false; delete each.dataset.closed; });
    }
    if (begins) load();
    if (!window.Plotly) return;
    redraw();
    if (begins) drawMissing();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  paper.addEventListener("change", (event) => print(event.matches));

  /* Trials */

  const found = read("trial-data");
  if (!found) return;
  const ROWS = 50;
  const WORDS = { COMPLETE: "complete", PRUNED: "pruned", FAIL: "failed", RETRIED: "tried again", RUNNING: "running" };
  const { trials } = found;
  const byNumber = new Map(trials.map((trial) => [trial.number, trial]));
  const body = document.querySelector("#trial-table tbody");
  const filter = document.getElementById("filter");
  const section = document.getElementById("trial");
  const chosen = new Set(trials.map((trial) => trial.state));
  let order = { column: null, up: false };
  let limit = ROWS;
  let rows = trials;

  const shown = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return value.length > 32 ? `${value.slice(0, 15)}…${value.slice(-16)}` : value;
    if (Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2).replace(/\.?0+e/, "e") : String(Number(value.toPrecision(3)));
  };
  const exact = (value) =>
    typeof value === "number" && value && Math.abs(value) < 1e-3 ? value.toExponential() : value === null ? "" : String(value);
  const score = (value) => (value === null || value === undefined ? "" : value.toFixed(4).replace("-", "−"));
  const time = (seconds) => {
    if (seconds === undefined) return "";
    const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
    if (!minutes) return `${whole} s`;
    return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const marks = (trial) => [trial.number === found.best && "best", trial.number === found.default && "default"].filter(Boolean);
  const columns = [
    { name: "Trial", raw: (trial) => trial.number, text: (trial) => [trial.number, ...marks(trial)].join(" ") },
    { name: "State", raw: (trial) => trial.told, text: (trial) => trial.told },
    ...found.scores.map((name, at) => ({
      name, raw: (trial) => trial.scores[at], text: (trial) => score(trial.scores[at]), number: true, down: !found.lower[at],
    })),
    ...found.params.map((name, at) => ({
      name, raw: (trial) => trial.params[at], text: (trial) => shown(trial.params[at]),
      number: trials.some((trial) => typeof trial.params[at] === "number"), whole: (trial) => trial.params[at],
    })),
    { name: "Time", raw: (trial) => trial.seconds, text: (trial) => time(trial.seconds), number: true },
  ];

  const compare = (column) => (a, b) => {
    const [left, right] = [column.raw(a), column.raw(b)];
    const [without, wanting] = [left ?? null, right ?? null].map((value) => value === null);
    if (without || wanting) return without - wanting; // what has none stands last, whichever way
    const way = order.up ? 1 : -1;
    if (typeof left === typeof right && typeof left === "number") return way * (left - right) || a.number - b.number;
    return way * String(left).localeCompare(String(right), "en", { numeric: true }) || a.number - b.number;
  };

  // `adamw`, `learning_rate>3e-5`, `state=pruned`: all of them must hold.
  const condition = (term) => {
    const parts = /^(.+?)(<=|>=|<|>|=)(.+)$/.exec(term);
    const column = parts && columns.find((each) => each.name.toLowerCase().replace(/ /g, "_") === parts[1]);
    if (column) {
      const [, , sign, wanted] = parts;
      const number = Number(wanted);
      return (trial) => {
        const raw = column.raw(trial);
        if (raw === null || raw === undefined) return false;
        if (sign === "=") return Number.isNaN(number) || typeof raw !== "number" ? column.text(trial).toLowerCase().includes(wanted) : raw === number || shown(raw) === wanted;
        if (typeof raw !== "number" || Number.isNaN(number)) return false;
        return { "<": raw < number, ">": raw > number, "<=": raw <= number, ">=": raw >= number }[sign];
      };
    }
    return (trial) => trial.text.includes(term);
  };
  for (const trial of trials) {
    trial.text = columns.map((column) => `${column.text(trial)} ${column.whole?.(trial) ?? ""}`).join(" ").toLowerCase();
  }

  const update = () => {
    const conditions = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean).map(condition);
    rows = trials.filter((trial) => chosen.has(trial.state) && conditions.every((holds) => holds(trial)));
    if (order.column) rows = [...rows].sort(compare(order.column));
    body.replaceChildren(...rows.slice(0, limit).map(row));
    const more = document.getElementById("more");
    more.hidden = rows.length <= limit;
    const all = trials.length === rows.length ? "" : ` (of ${trials.length.toLocaleString("en")})`;
    document.getElementById("shown").textContent = rows.length > limit
      ? `The first ${limit} of ${rows.length.toLocaleString("en")} trials${all}.`
      : `${rows.length.toLocaleString("en")} ${rows.length === 1 ? "trial" : "trials"}${all}.`;
  };

  const row = (trial) => {
    const link = element("a", { href: `#trial-${trial.number}`, textContent: String(trial.number) });
    const made = element("tr", { className: location.hash === `#trial-${trial.number}` ? "open" : "" });
    made.dataset.number = trial.number;
    made.classList.toggle("strong", trial.number === found.best);
    columns.forEach((column, at) => {
      const cell = element("td", { className: column.number ? "number" : "" });
      if (at === 0) cell.append(link, ...marks(trial).map((mark) => element("span", { className: `mark ${mark}`, textContent: mark })));
      else cell.textContent = column.text(trial);
      const whole = column.whole?.(trial);
      if (typeof whole === "string" && whole.length > 32) cell.title = whole;
      if (at && trial.state !== "COMPLETE" && trial.state !== "RUNNING") cell.classList.add("faded");
      made.append(cell);
    });
    return made;
  };

  const header = element("tr");
  for (const column of columns) {
    const button = element("button", { type: "button", textContent: column.name });
    const cell = element("th", { scope: "col", className: column.number ? "number" : "" }, button);
    button.addEventListener("click", () => {
      // First the way that tells most: the best score, the smallest of anything else.
      order = order.column === column ? { column, up: !order.up } : { column, up: !column.down };
      header.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", order.up ? "ascending" : "descending");
      update();
    });
    header.append(cell);
  }
  document.querySelector("#trial-table thead").append(header);

  for (const state of Object.keys(WORDS).filter((each) => chosen.has(each))) {
    const amount = trials.filter((trial) => trial.state === state).length;
    const box = element("input", { type: "checkbox", checked: true, value: state });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(state);
      else chosen.delete(state);
      limit = ROWS;
      update();
    });
    document.getElementById("states").append(element("label", {}, box, `${WORDS[state]} (${amount.toLocaleString("en")})`));
  }
  filter.addEventListener("input", () => { limit = ROWS; update(); });
  document.getElementById("more").addEventListener("click", () => { limit = limit === ROWS ? 250 : Infinity; update(); });
  body.addEventListener("click", (event) => {
    const number = event.target.closest("tr")?.dataset.number;
    if (number && !event.target.closest("a") && !String(getSelection())) location.hash = `trial-${number}`;
  });

  /* One trial */

  const facts = (pairs) => {
    const list = element("dl", { className: "facts" });
    for (const [name, value] of pairs) {
      if (value === undefined || value === null || value === "") continue;
      list.append(element("div", {}, element("dt", { textContent: name }), element("dd", {}, value)));
    }
    return list;
  };
  const block = (title, pairs) => element("div", {}, element("h4", { textContent: title }), facts(pairs));
  const grouped = (value) => value?.toLocaleString("en", { maximumFractionDigits: 0 });

  const curves = (trial) => {
    const unit = found.budget ? 100 / found.budget : 1;
    const line = (each, name, style) => ({
      type: "scatter", mode: "lines+markers", name, x: each.curve[0].map((step) => step * unit), y: each.curve[1],
      line: style, marker: { size: 5, color: style.color }, hovertemplate: "%{y:.4f}",
    });
    const beside = [[found.best, "best", "#D55E00"], [found.default, "untuned default", "#222222"]]
      .filter(([number]) => number !== null && number !== trial.number && byNumber.get(number)?.curve)
      .map(([number, name, color]) => line(byNumber.get(number), name, { color, width: 1.2, dash: "dot" }));
    return {
      data: [...beside, line(trial, `trial ${trial.number}`, { color: "#0072B2", width: 2.6 })],
      layout: {
        hovermode: "x unified", showlegend: true,
        xaxis: { title: { text: found.budget ? "Share of the training budget (%)" : "Evaluation (number)" }, ...(found.budget ? { range: [0, 103] } : {}) },
        yaxis: { title: { text: found.metric.charAt(0).toUpperCase() + found.metric.slice(1) } },
      },
    };
  };

  const open = (trial) => {
    const at = rows.indexOf(trial);
    const to = (other, name) => {
      const button = element("button", { type: "button", className: "plain", textContent: name, disabled: !other });
      button.addEventListener("click", () => { location.hash = `trial-${other.number}`; });
      return button;
    };
    const close = element("button", { type: "button", className: "plain", textContent: "Close" });
    close.addEventListener("click", () => {
      history.replaceState(null, "", "#trials");
      section.hidden = true;
      update();
      body.querySelector(`tr[data-number="${trial.number}"] a`)?.focus();
    });
    const title = element("h3", { id: "trial-title", tabIndex: -1, textContent: `Trial ${trial.number}` });
    const which = [trial.number === found.best && "the best", trial.number === found.default && "the untuned default"];
    const told = [trial.told, ...which, trial.repeats !== undefined && `repeats trial ${trial.repeats}`].filter(Boolean);
    const run = trial.run && element("a", { href: `${found.address}/#/runs/${trial.run}`, textContent: "Its run in MLflow" });
    const head = element("div", { className: "head" }, title,
      element("div", {}, to(at > 0 && rows[at - 1], "Previous"), " ", to(at >= 0 && rows[at + 1], "Next"), " ", close));
    const plot = trial.curve && element("div", { className: "plot" });
    const figure = plot && element("figure", {},
      element("h4", { textContent: `Its score while training, beside ${trial.number === found.best ? "the default" : "the best and the default"}` }), plot);
    const searched = found.params.map((name, index) => [name, exact(trial.params[index])]);
    const steps = trial.steps && `${grouped(trial.steps[0])} of ${grouped(trial.steps[1])}`;
    section.replaceChildren(...[
      head, element("p", { className: "told" }, `${told.join(", ")}. `, run || ""),
      element("div", { className: "columns" },
        block("Parameters", searched),
        block("Validation", Object.entries(trial.metrics ?? {}).map(([name, value]) => [name, score(value)])),
        block("Run", [["Started", trial.started], ["Time", time(trial.seconds)], ["Optimizer steps", steps],
          ["Examples per second", grouped(trial.speed)], ["Peak memory", trial.memory && `${grouped(trial.memory)} MiB`],
          ["Trained parameters", trial.trained && grouped(trial.trained)],
          ["Device", trial.device], ["Seed", trial.seed && String(trial.seed)]])),
      trial.message && element("pre", { textContent: trial.message }), figure,
    ].filter(Boolean));
    section.hidden = false;
    if (plot && window.Plotly) {
      plot.figure = curves(trial);
      plot.dataset.height = 300;
      draw(plot);
    }
    body.querySelectorAll("tr").forEach((each) => each.classList.toggle("open", Number(each.dataset.number) === trial.number));
    title.focus({ preventScroll: true });
    section.scrollIntoView({ block: "nearest" });
  };
  const follow = () => {
    const number = /^#trial-(\d+)$/.exec(location.hash)?.[1];
    if (number && byNumber.has(Number(number))) open(byNumber.get(Number(number)));
  };

  update();
  addEventListener("hashchange", follow);
  follow();
})();
