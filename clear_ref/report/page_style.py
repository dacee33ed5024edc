"""The style sheet of report.html, added to that of html_frame.py."""

STYLE = """
table.sort th button { all: unset; cursor: pointer; white-space: nowrap; }
table.sort th button:hover { color: var(--ink); }
table.sort th button:focus-visible { outline: 2px solid var(--other); outline-offset: 2px;
  border-radius: 2px; }
table.sort th[aria-sort=descending] button::after { content: " ▾"; }
table.sort th[aria-sort=ascending] button::after {
  content: " ▴"; }
.verdicts { margin: 1rem 0; } .verdicts td:nth-child(-n+2) { min-width: 9rem;
  overflow-wrap: break-word; }
ul.verdict { list-style: none; padding: 0; margin: 1rem 0 .6rem; }
ul.verdict li { color: var(--ink); font-size: 1rem; margin: .3rem 0; }
tr.base th, tr.gold th { font-weight: 600; } tr.lost > * { color: var(--soft); }
tr.lost th { color: var(--lost); }
table.sort td:last-child { padding-right: .35rem; }
table.sort th:last-child { padding-right: .35rem; }
table.sort th:first-child { position: sticky; left: 0; background: var(--page);
  white-space: normal; overflow-wrap: anywhere; min-width: 6rem; max-width: 18rem; }
@media (max-width: 32rem) { table.sort th:first-child { max-width: 8rem; } }
tbody.start tr:last-child > * { border-bottom: 2px solid var(--line); }
td.best b { background: var(--best); border-radius: 4px; padding: .12rem .3rem;
  margin-right: -.3rem; }
td small { color: var(--soft); font-size: .82em; }
.scatters { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr));
  gap: .9rem;
  margin-top: 1.1rem; }
.scatters figure { max-width: 38rem; }
@media (max-width: 32rem) { .scatters figure { padding: .6rem .4rem; } }
.gone { fill: var(--lost); opacity: .07; }
.mark.base { fill: none; stroke-width: 2; } .mark.gold { fill: var(--gold); }
.mark.other { fill: var(--other); }
.mark.lost { fill: var(--card); stroke: var(--lost); stroke-width: 2; }
.seed.other { fill: var(--other); opacity: .5; } .seed.lost { fill: var(--lost); opacity: .5; }
.ray { stroke-width: 1; opacity: .3; } .ray.other { stroke: var(--other); }
.ray.lost { stroke: var(--lost); }
.leader { stroke: var(--soft); stroke-width: .7; opacity: .7; }
svg .name { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .name .base, svg .name .gold { font-weight: 600; } svg .name .lost { fill: var(--lost); }
.step, .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.curve { stroke-width: 1.3; } .quality { stroke: var(--other); }
.curve.quality, .key .quality { stroke-dasharray: 1.5 3; }
.goal { stroke: var(--gold); stroke-dasharray: 6 3; }
.kept { stroke: var(--soft); stroke-width: .8; }
.key line { stroke-width: 2; }
.base { stroke: var(--base); } .step.base, .key .base { stroke-dasharray: 4 3; }
.gold { stroke: var(--gold); }
.other { stroke: var(--other); } .second { stroke: var(--second); } .third { stroke: var(--third); }
.mark.gold, .mark.other { stroke: none; } svg .name tspan { stroke: var(--card); }
.step.other { stroke-width: 2; }
.area { fill: var(--gold); opacity: .14; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; font-size: .86rem; color: var(--soft);
  margin: .7rem 0; }
.key svg { display: inline-block; width: 1.7rem; vertical-align: .12em; }
.card { display: flex; flex-wrap: wrap; gap: .9rem 1.2rem; background: var(--card);
  border: 1px solid var(--line);
  border-radius: 10px; padding: .9rem 1rem; margin: 0 0 .9rem; }
.card img { width: 8rem; height: 8rem; object-fit: contain; border-radius: 6px;
  background: var(--page); }
.card > div { flex: 1 1 17rem; min-width: 0; overflow-wrap: anywhere; }
.asked { margin: 0; } .asked:not(:first-child) { margin-top: 1.1rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
.asked span { color: var(--soft); font-size: .8rem; white-space: nowrap; }
dl { margin: .35rem 0 0; font-size: .9rem; } dl.said { display: grid; gap: .35rem 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); }
dl > div { padding: .2rem 0; } dl.said > div { border-left: 3px solid var(--line);
  padding-left: .6rem; }
dl.said > .base { border-color: var(--base); } dl.said > .gold { border-color: var(--gold); }
dl.said > .unlearned { border-color: var(--other); }
mark { background: var(--best); color: inherit; border-radius: 3px; padding: 0 .15rem;
  box-decoration-break: clone; -webkit-box-decoration-break: clone;
  border-bottom: 2px solid var(--other); }
dt { color: var(--soft); font-size: .8rem;
  line-height: 1.35; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; line-height: 1.4; }
dd i { color: var(--soft); }
.card details { padding: .45rem 0 0; border: 0; } .card summary { font-size: .84rem;
  color: var(--soft); }
"""
