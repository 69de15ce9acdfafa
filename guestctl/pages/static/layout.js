/** The style of the inspector, after that of every page. */

export const LAYOUT = `
body { display: flex; flex-direction: column; min-height: 100vh; }
header { padding: 0.5rem 1rem; border-bottom: 1px solid var(--line); background: var(--surface); }
header h1 span { font-weight: 400; color: var(--muted); }
.status::before { content: "●"; margin-right: 0.35em; } .notice { margin: 0.5rem 1rem 0; }
.columns { display: grid; flex: 1; gap: 1px; background: var(--line); grid-template-columns: 17rem minmax(0, 1.1fr) minmax(0, 1fr); }
.columns > * { background: var(--page); min-width: 0; }
.bar { padding: 0.5rem 0.75rem; } .bar + .bar { padding-top: 0; }
gc-sessions, gc-timeline, gc-details, gc-desk, gc-faults, gc-try-it { display: flex; flex-direction: column; min-height: 0; }
.sessions { overflow-y: auto; padding: 0 0.5rem 0.5rem; }
.sessions button {
  display: grid; grid-template-columns: 1fr auto; gap: 0 0.5rem; width: 100%; text-align: left; padding: 0.35rem 0.5rem;
  border-color: transparent; background: none; margin-bottom: 2px;
}
.sessions button:hover { background: var(--raised); }
.sessions button[aria-pressed=true] { background: var(--chosen); border-color: var(--accent); color: var(--text); }
.sessions .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .sessions .about { grid-column: 1 / -1; font-size: 0.75rem; }
.sessions [aria-pressed=true] .muted { color: var(--text); }
.frame { position: relative; flex: 1; min-height: 12rem; background: var(--surface); border-top: 1px solid var(--line); }
.viewport { position: absolute; inset: 0; overflow-y: scroll; overflow-anchor: none; contain: strict; }
.viewport:focus-visible { outline-offset: -2px; }
.spacer { position: relative; } .empty { padding: 1rem; }
.newest { position: absolute; bottom: 0.75rem; left: 50%; transform: translateX(-50%); border-radius: 1rem; }
.entry {
  position: absolute; left: 0; right: 0; height: 1.75rem; display: grid; align-items: center; gap: 0.5rem; padding: 0 0.75rem;
  grid-template-columns: 6.2rem 0.9rem 5.2rem minmax(0, 1fr) auto; white-space: nowrap; cursor: default; border-left: 3px solid transparent;
}
.all-sessions .entry { grid-template-columns: 6.2rem 0.9rem 5.2rem 4.6rem minmax(0, 1fr) auto; } .entry .session { display: none; }
.all-sessions .entry .session { display: block; } .entry > * { overflow: hidden; text-overflow: ellipsis; }
.entry .time, .entry .took, .entry .session { font: 0.75rem var(--mono); color: var(--muted); } .entry .kind { color: var(--muted); }
.entry.out .way, .entry.out .kind { color: var(--guest); } .entry.in .way, .entry.in .kind { color: var(--service); }
.entry.fails .way, .entry.fails .kind, .entry.fails .summary { color: var(--bad); }
.entry:hover { background: var(--raised); } .entry.partner { border-left-color: var(--accent); }
.entry[aria-selected=true] { background: var(--chosen); border-left-color: var(--accent); } .entry[aria-selected=true] * { color: var(--text); }
[role=tablist] { display: flex; flex-wrap: wrap; gap: 0 0.25rem; padding: 0.25rem 0.75rem 0; border-bottom: 1px solid var(--line); }
[role=tab] { border: 0; border-bottom: 2px solid transparent; background: none; color: var(--muted); }
[role=tab][aria-selected=true] { border-bottom-color: var(--accent); color: var(--text); font-weight: 600; }
.side { display: flex; flex-direction: column; min-height: 0; }
.side > [role=tabpanel] { flex: 1; min-height: 0; overflow-y: auto; padding: 0.75rem; display: flex; flex-direction: column; }
.side [role=tabpanel] > * { flex: 1; gap: 0.75rem; } .side > [role=tabpanel][hidden] { display: none; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 0.75rem; } .facts dt { color: var(--muted); }
.facts dd { font-family: var(--mono); font-size: 0.8125rem; }
.headers td, .headers th { padding: 0.1rem 0.75rem 0.1rem 0; vertical-align: top; font: 0.8125rem var(--mono); } .headers th { color: var(--muted); }
summary { cursor: pointer; }
.panes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); gap: 0.75rem; }
.panes pre { margin-top: 0.25rem; padding: 0.5rem 0.6rem; max-height: 60vh; overflow: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 6px; }
.key { color: var(--accent); } .string { color: var(--guest); } .literal { color: var(--warn); }
[role=tabpanel] .bubbles { flex: 1 1 10rem; min-height: 10rem; overflow-y: auto; padding: 0.75rem; background: var(--surface); border: 1px solid var(--line); border-radius: 6px; }
.items { margin-top: 0.35rem; } .chip { border: 1px solid var(--edge); border-radius: 1rem; padding: 0.1rem 0.7rem; }
.card { border: 1px solid var(--edge); border-radius: 8px; padding: 0.4rem 0.6rem; display: flex; flex-wrap: wrap; gap: 0.35rem; } .card > strong, .card > p { flex: 1 1 100%; }
form { display: flex; flex-direction: column; gap: 0.5rem; } form.row { flex-direction: row; } textarea { width: 100%; resize: vertical; }
label { display: grid; gap: 0.15rem; } label > span:first-child { color: var(--muted); font-size: 0.8125rem; }
ul:empty { display: none; } details label { margin: 0.35rem 0; }
.faults { display: grid; gap: 0.5rem; } .faults > li { display: grid; gap: 0.4rem; padding: 0.5rem 0.6rem; background: var(--surface); border: 1px solid var(--line); border-radius: 6px; }
.faults label { display: flex; align-items: center; gap: 0.4rem; } .faults label input { flex: 1; min-width: 0; } .faults label.grow { flex: 1 1 10rem; } .short { width: 5.5rem; }
.faults .head { flex-wrap: nowrap; align-items: flex-start; }
[role=switch] { flex: none; width: 2.4rem; min-height: 1.3rem; padding: 0; border-radius: 1rem; position: relative; background: var(--raised); }
[role=switch]::after { content: ""; position: absolute; top: 0.13rem; left: 0.15rem; width: 0.9rem; height: 0.9rem; border-radius: 50%; background: var(--edge); }
[role=switch][aria-checked=true], [role=switch][aria-checked=true]:hover { background: var(--accent); border-color: var(--accent); } [role=switch][aria-checked=true]::after { left: 1.25rem; background: var(--on-accent); }
@media (min-width: 60rem) { body { height: 100vh; } .columns { min-height: 0; } }
@media (max-width: 80rem) and (min-width: 60rem) { .columns { grid-template-columns: 11rem minmax(0, 1fr) minmax(0, 1fr); } .all-sessions .entry, .entry { grid-template-columns: 0.9rem 4.5rem minmax(0, 1fr) auto; } .entry .time, .all-sessions .entry .session { display: none; } }
@media (max-width: 59.99rem) {
  .columns { grid-template-columns: minmax(0, 1fr); } .sessions { max-height: 40vh; } .frame { min-height: max(16rem, 60vh); }
  .all-sessions .entry, .entry { grid-template-columns: 0.9rem 4.5rem minmax(0, 1fr) auto; } .entry .time, .all-sessions .entry .session { display: none; }
}
@media (max-width: 24rem) {
  .all-sessions .entry, .entry { grid-template-columns: 0.9rem minmax(0, 1fr) auto; } .entry .kind { display: none; } header, .bar { padding-inline: 0.5rem; } }
`;
