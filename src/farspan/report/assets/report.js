// Unpacks plotly.js, draws every figure at the width of its place, and redraws when the width, the light or the paper changes.
(async () => {
  "use strict";
  const read = (id) => document.getElementById(id).textContent;
  const plots = [...document.querySelectorAll(".plot")];

  for (const box of document.querySelectorAll(".copyable")) {
    if (!navigator.clipboard) break;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    box.append(button);
  }
  if (!plots.length) return;

  const packed = Uint8Array.from(atob(read("plotly-packed").trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);

  const figures = JSON.parse(read("figures"));
  const night = JSON.parse(read("night"));
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const swapped = Object.fromEntries(
    Object.entries(figures).map(([key, figure]) => [
      key,
      JSON.parse(JSON.stringify(figure), (_, value) => (typeof value === "string" ? night[value] ?? value : value)),
    ]),
  );

  const draw = (place, printing) => {
    const figure = (dark.matches && !printing ? swapped : figures)[place.dataset.figure];
    const width = Math.floor(place.getBoundingClientRect().width);
    place.querySelector(".fallback")?.remove();
    // Plotly writes into what it is given, so each drawing gets its own copy.
    const { data, layout } = structuredClone(figure);
    return Plotly.react(place, data, { ...layout, width }, { displayModeBar: false, responsive: false, showTips: false });
  };
  const drawAll = (printing = false) => Promise.all(plots.map((place) => draw(place, printing)));

  await drawAll();
  dark.addEventListener("change", () => drawAll());
  const widths = new Map(plots.map((place) => [place, place.clientWidth]));
  const watch = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      if (widths.get(target) === target.clientWidth) continue;
      widths.set(target, target.clientWidth);
      draw(target, false);
    }
  });
  plots.forEach((place) => watch.observe(place));
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.more:not([open])")];
    opened.forEach((part) => (part.open = true));
    drawAll(true);
  });
  addEventListener("afterprint", () => {
    opened.forEach((part) => (part.open = false));
    drawAll();
  });
  document.documentElement.dataset.drawn = plots.length;
})();
