"""The page's style sheet and script: no fonts, no network, `light-dark()` gives every colour both its values."""

PALETTE = {
    "paper": ("#fbfbfa", "#0d1117"),
    "card": ("#ffffff", "#161b22"),
    "ink": ("#1b1f24", "#e6edf3"),
    "soft": ("#59636e", "#9da7b1"),
    "line": ("#d9dee3", "#30363d"),
    "good": ("#116329", "#56d364"),
    "good-paper": ("#dafbe1", "#12261e"),
    "bad": ("#a40e26", "#ff7b72"),
    "bad-paper": ("#ffebe9", "#2d1316"),
    "cover": ("#6e7781", "#8b949e"),
    "series-0": ("#0550ae", "#79c0ff"),
    "series-1": ("#bc4c00", "#ffa657"),
    "series-2": ("#1a7f37", "#7ee787"),
    "series-3": ("#8250df", "#d2a8ff"),
    "series-4": ("#bf3989", "#ff9bce"),
    "series-5": ("#6e7781", "#8b949e"),
}
"""Colours by name, each for light and for dark surroundings."""

DRAWING_STYLE = """
svg text { fill: var(--ink); font: 12.5px system-ui, sans-serif; }
svg .tick, svg .axis { fill: var(--soft); } svg .label { font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .band { fill: var(--line); fill-opacity: 0.45; } svg .band.odd { fill-opacity: 0.15; }
svg .lane { fill: var(--line); fill-opacity: 0.3; }
svg .roof { stroke: var(--ink); stroke-width: 2; fill: none; }
svg .whole { fill: none; stroke: var(--ink); stroke-width: 2.5; }
svg .series-0 { fill: var(--series-0); } svg .series-1 { fill: var(--series-1); }
svg .series-2 { fill: var(--series-2); } svg .series-3 { fill: var(--series-3); }
svg .series-4 { fill: var(--series-4); } svg .series-5 { fill: var(--series-5); }
svg .curve { fill: none; stroke: var(--series-2); stroke-width: 2; opacity: 0.55; }
svg .line { fill: none; stroke-width: 1.5; opacity: 0.7; }
svg .line-0 { stroke: var(--series-0); } svg .line-1 { stroke: var(--series-1); }
svg .line-2 { stroke: var(--series-2); } svg .line-3 { stroke: var(--series-3); }
svg .line-4 { stroke: var(--series-4); } svg .line-5 { stroke: var(--series-5); }
svg .curve-dot { fill: var(--card); stroke: var(--series-2); stroke-width: 2; }
"""
"""How figures look, in a page and as files."""


def _colours(scheme: str) -> str:
    """Return the palette as CSS properties: "both" for light-dark(), or one of "light" and "dark"."""
    forms = {"both": "light-dark({}, {})", "light": "{0}", "dark": "{1}"}
    return " ".join(f"--{name}: {forms[scheme].format(*colours)};" for name, colours in PALETTE.items())


FILE_STYLE = f"svg {{ {_colours('light')} background: var(--paper); }}{DRAWING_STYLE}"
"""The style sheet of a figure that is a file: light, because many viewers know no other."""

STYLE = (
    f":root {{ color-scheme: light dark; {_colours('both')} }}"
    + """
:root[data-theme="light"] { color-scheme: light; }
:root[data-theme="dark"] { color-scheme: dark; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { display: flex; flex-wrap: wrap; gap: 16px; align-items: center; justify-content: space-between;
  padding-top: 32px; padding-bottom: 8px; }
h1 { margin: 0; font-size: 1.8rem; letter-spacing: -0.02em; }
h2 { margin: 48px 0 8px; font-size: 1.25rem; }
p { max-width: 70ch; } header p, section > p { color: var(--soft); margin: 0 0 16px; }
button { font: inherit; font-size: 0.875rem; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 8px; padding: 6px 14px; }
button:focus-visible, summary:focus-visible { outline: 3px solid var(--series-0); outline-offset: 2px; }
.tiles { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); margin-top: 16px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 0.9rem; }
.proof { border-radius: 12px; padding: 24px 28px; margin-top: 16px; border: 2px solid currentcolor; }
.proof.good { color: var(--good); background: var(--good-paper); }
.proof.bad { color: var(--bad); background: var(--bad-paper); }
.proof strong { display: block; font-size: 2.6rem; line-height: 1.2; letter-spacing: -0.02em; }
.proof p { margin: 6px 0 0; color: var(--ink); max-width: none; }
.pair { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.card h3 { margin: 0 0 8px; font-size: 1rem; }
.card { overflow-x: auto; min-width: 0; } .card svg { width: 100%; min-width: 420px; height: auto;
  display: block; }
.wide { max-width: 720px; }
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.picture { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px; }
.stages { display: flex; gap: 10px; } .stage { flex: 1; min-width: 0; text-align: center; }
.stage svg { width: 100%; display: block; border-radius: 4px; background: #000; }
.stage image { image-rendering: pixelated; } .stage small { color: var(--soft); }
.stage .pruned { fill: var(--cover); fill-opacity: 0.86; stroke: var(--card); stroke-width: 0.12; }
figcaption { margin-top: 8px; font-size: 0.9rem; }
.verdict.right { color: var(--good); } .verdict.wrong { color: var(--bad); font-weight: 700; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); font-size: 0.9rem; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 10px 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child { text-align: left; font-weight: 500; }
li { margin: 4px 0; max-width: 80ch; } footer { color: var(--soft); padding-top: 48px; padding-bottom: 40px; }
@media print { button { display: none; } .tile, .card, .picture { break-inside: avoid; } }
"""
    + DRAWING_STYLE
)

SCRIPT = """
(function () {
  const root = document.documentElement, button = document.getElementById("theme");
  function show(theme) {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light colours" : "Dark colours";
    button.hidden = false;
  }
  show(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  button.addEventListener("click", () => show(root.dataset.theme === "dark" ? "light" : "dark"));
  const filter = document.getElementById("filter");
  if (filter) {
    const right = document.querySelectorAll('.picture[data-verdict="right"]');
    filter.hidden = right.length === 0;
    filter.addEventListener("click", () => {
      const hide = filter.getAttribute("aria-pressed") !== "true";
      filter.setAttribute("aria-pressed", String(hide));
      right.forEach((picture) => { picture.hidden = hide; });
    });
  }
  root.dataset.ready = "yes";
})();
"""
