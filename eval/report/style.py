"""How the page looks: one column to read, light and dark as the reader has it, cards for rows where narrow."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --rule: #d9dfe6; --paper: #fff; --tint: #f4f6f9;
  --shared: #1d9a5b; --c0: #2f6fbb; --c1: #d9730d; --c2: #2a9d5c; --c3: #c53b52; --c4: #7b55c7; --c5: #8a5a3b;
  --c6: #cf5fa9; --c7: #6f7a1c; --c8: #1497a8; --c9: #55606e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #a2adba; --rule: #38424f; --paper: #14181e;
  --tint: #1d232b; --shared: #43c987; --c0: #6ea8ee; --c1: #f39a4a; --c2: #5fcb8d; --c3: #f0788b; --c4: #b195f2;
  --c5: #c79a7b; --c6: #ee94d0; --c7: #bac65a; --c8: #53c9d8; --c9: #a5b0be; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1180px; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 26px; line-height: 1.2; margin: 8px 0; } h2 { font-size: 20px; margin: 40px 0 8px; }
h3 { font-size: 16px; margin: 20px 0 6px; } p { max-width: 78ch; margin: 6px 0; }
small, .soft { color: var(--soft); font-size: 13px; } code { font: 13px/1.5 ui-monospace, monospace; }
p.missing { padding: 8px 12px; background: var(--tint); border-left: 3px solid var(--c1); max-width: none; }
.wide { overflow-x: auto; background: linear-gradient(var(--paper), var(--paper)) right / 24px 100% no-repeat local,
  linear-gradient(to left, var(--rule), transparent) right / 16px 100% no-repeat scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top;
  font-weight: normal; }
th:first-child { text-align: left; } th small, td small, thead span { display: block; }
table.models { width: 100%; overflow-wrap: normal; }
table.models tbody th { overflow-wrap: anywhere; min-width: 150px; }
table.models td span { white-space: nowrap; } table.models td small { white-space: normal; }
table.models thead span:nth-child(n+4) { overflow-wrap: anywhere; min-width: 110px; }
table.figures { overflow-wrap: normal; } table.figures thead small { min-width: 110px; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-size: 13px; vertical-align: bottom; line-height: 1.35; }
tr.student { background: var(--tint); } td.none { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 16px 24px; }
figure { margin: 8px 0; } figcaption { font-size: 14px; margin-bottom: 4px; }
svg { display: block; width: 100%; max-width: 440px; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg text.name { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 5px; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.line { stroke: currentColor; fill: none; stroke-width: 1.8; }
.dashed { color: var(--soft); stroke-dasharray: 5 4; stroke-width: 1.2; }
.way { stroke: var(--soft); stroke-width: 1.5; }
.dots { stroke: currentColor; stroke-width: 3.4; stroke-linecap: round; fill: none; opacity: .65; }
.dots.big { stroke-width: 8; opacity: 1; } .grey { color: var(--rule); } .disc { fill: currentColor; }
.ring { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 6px 0; font-size: 14px; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  background: currentColor; }
.grid-of { display: grid; grid-template-columns: 64px 1fr; padding: 10px 0; border-bottom: 1px solid var(--rule); }
.rows { display: flex; flex-wrap: wrap; gap: 4px 18px; }
.grid-of small { display: block; } .row > div { display: flex; gap: 4px; }
.grid-of img { width: 54px; height: 54px; display: block; border: 2px solid transparent; image-rendering: auto; }
.grid-of img.shared { border-color: var(--shared); }
img.whole { max-width: 100%; height: auto; display: block; }
summary { cursor: pointer; padding: 6px 0; }
dl { display: grid; grid-template-columns: minmax(100px, 250px) 1fr; margin: 4px 0 16px; }
dt { color: var(--soft); font-size: 13px; } dt, dd { margin: 0 0 6px; }
@media (max-width: 700px) {
  table.models thead { display: none; } table.models, table.models tbody, table.models tr, table.models th,
  table.models td { display: block; width: 100%; }
  table.models tr { padding: 8px 10px; margin: 8px 0; border: 1px solid var(--rule); border-radius: 6px; }
  table.models th { border: 0; padding: 0 0 4px; text-align: left; }
  table.models td { display: flex; justify-content: space-between; gap: 12px; border: 0; padding: 3px 0; }
  table.models td::before { content: attr(data-label); color: var(--soft); font-size: 13px; text-align: left;
    overflow-wrap: anywhere; }
  table.models td.none { display: none; }
  table.models td small { white-space: nowrap; } dt { margin: 0; }
  .grid-of, dl { grid-template-columns: 1fr; } .grid-of img { width: 52px; height: 52px; }
}
""" + "".join(f".c{number} {{ color: var(--c{number}); }}\n" for number in range(10))
