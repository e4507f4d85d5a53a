"""The style of a page: readable on a wide and on a narrow screen, in light and in dark, and on paper."""

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #22272e; --soft: #5f6872; --line: #e3e6ea; --axis: #9aa1a9;
  --wash: #f5f6f8; --warn: #8a5a00; --bad: #b3342d; --missing: #fdf3f2; --fit: #c2413a; --theory: #2f7fc0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9da6af; --line: #30363c;
  --axis: #69727b; --wash: #1e2328; --warn: #d9a441; --bad: #ee8078; --missing: #2c1d1c; --fit: #ec7a72;
  --theory: #66a9e0; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1060px; margin: 2rem auto 5rem; padding: 0 1.25rem; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .5rem; } p.lead, figcaption, .soft { color: var(--soft); }
a { color: var(--theory); }
p.answer { font-size: 1.1rem; background: var(--wash); padding: .9rem 1.1rem; border-radius: 6px; margin: .6rem 0; }
figure { margin: 1.2rem 0 2rem; } figcaption { font-size: .9rem; } .chart { min-height: 20px; width: 100%; }
.chart svg, svg.chart { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); white-space: nowrap; }
td { border-bottom: 1px solid var(--line); } th, td { padding: .32rem .9rem .32rem 0; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; } tr.out td { color: var(--soft); }
code { font-size: .92em; }
tr.missing td { background: var(--missing); color: var(--bad); } tr.group td { font-weight: 600; padding-top: 1rem; }
.formula { font-family: ui-monospace, Menlo, Consolas, monospace; } .refusal { color: var(--bad); }
ul.notes { padding-left: 1.2rem; } ul.notes li { margin: .3rem 0; } .warn { color: var(--warn); }
details { border-top: 1px solid var(--line); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 600px) { body { padding: 0 .9rem; margin-top: 1.2rem; } h1 { font-size: 1.4rem; }
  p.answer { font-size: 1rem; padding: .7rem .8rem; } }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --axis: #888; --wash: #fff;
  --warn: #654200; --bad: #8f2a24; --fit: #b3342d; --theory: #1b6ca8; }
  body { max-width: none; margin: 0; font-size: 10.5pt; }
  p.answer { border: 1px solid var(--line); } figure, table { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
