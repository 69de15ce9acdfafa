/**
 * The style of every page, for light and dark. `adopt(BASE)` comes first; each page adds its own.
 *
 * Styles are adopted, so that the pages need no `style-src` in their policy.
 */

/**
 * Add a style to the page.
 * @param {string} css
 */
export function adopt(css) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}

/** Colours, text and form controls. */
export const BASE = `
:root {
  color-scheme: light dark;
  --page: light-dark(#f4f6f8, #0f1317); --surface: light-dark(#fff, #171c22); --raised: light-dark(#f0f3f6, #1f262e);
  --line: light-dark(#d8dee6, #2b333d); --edge: light-dark(#7d8896, #6d7988);
  --text: light-dark(#18212c, #e3e9f0); --muted: light-dark(#536071, #9caab9);
  --accent: light-dark(#1a5ab8, #86b6ff); --on-accent: light-dark(#fff, #0b1422); --chosen: light-dark(#e3edfb, #1e3350);
  --guest: light-dark(#0a6a5b, #63d2bd); --guest-soft: light-dark(#dff3ee, #12332e);
  --service: light-dark(#5145b8, #b3aefc); --service-soft: light-dark(#eeecfb, #262450);
  --good: light-dark(#1b6e36, #77d494); --bad: light-dark(#b0261c, #ff9a90); --bad-soft: light-dark(#fdebe9, #44201d);
  --warn: light-dark(#7d5200, #f0c265); --warn-soft: light-dark(#fdf3dc, #3c3015);
  --mono: ui-monospace, "SFMono-Regular", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  color: var(--text); background: var(--page);
}
*, ::before, ::after { box-sizing: border-box; }
body { margin: 0; font: 0.875rem/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
h1, h2, h3, p, ul, ol, dl, dd, pre, figure, fieldset { margin: 0; padding: 0; border: 0; }
h1 { font-size: 1rem; } h2 { font-size: 0.875rem; } h3 { font-size: 0.8125rem; }
ul, ol { list-style: none; }
a { color: var(--accent); overflow-wrap: anywhere; }
pre, code, .mono { font-family: var(--mono); font-size: 0.8125rem; line-height: 1.5; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
button, input, select, textarea { font: inherit; color: inherit; border-radius: 6px; }
button, select, input:not([type=checkbox], [type=radio], [type=file]), textarea {
  min-height: 1.875rem; padding: 0.2rem 0.6rem; border: 1px solid var(--edge); background: var(--surface);
}
input, select, textarea { max-width: 100%; }
button { cursor: pointer; } button:hover:not(:disabled) { background: var(--raised); }
button:disabled { color: var(--muted); border-color: var(--line); cursor: default; }
button.main { background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; }
button.main:hover:not(:disabled) { background: var(--accent); filter: brightness(1.1); }
button.main:disabled { background: var(--raised); border-color: var(--line); color: var(--muted); }
button[aria-pressed=true] { background: var(--chosen); border-color: var(--accent); color: var(--accent); }
::placeholder { color: var(--muted); opacity: 1; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
.muted { color: var(--muted); } .bad { color: var(--bad); } .good { color: var(--good); } .warn { color: var(--warn); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.remote { unicode-bidi: isolate; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; } .row > .grow { flex: 1 1 10rem; }
.notice { padding: 0.5rem 0.75rem; border-radius: 6px; background: var(--warn-soft); color: var(--warn); }
.notice.bad { background: var(--bad-soft); color: var(--bad); }
.bubbles { display: flex; flex-direction: column; gap: 0.5rem; }
.bubble { max-width: 85%; padding: 0.4rem 0.7rem; border-radius: 12px; align-self: flex-start; background: var(--service-soft); }
.bubble.guest { align-self: flex-end; background: var(--guest-soft); }
.bubble.event { align-self: center; background: none; color: var(--muted); padding: 0; }
.bubble.failed { outline: 2px solid var(--bad); }
.bubble .who { display: block; font-size: 0.75rem; color: var(--muted); }
.bubble .text { white-space: pre-wrap; }
.chart { display: block; width: 100%; height: auto; font-size: 12px; color: var(--text); }
.chart text { fill: currentColor; } .chart .quiet { fill: var(--muted); }
.chart .grid { stroke: var(--line); } .chart .limit { stroke: var(--bad); stroke-dasharray: 4 3; }
.chart .bar { fill: var(--accent); } .chart .bar.bad { fill: var(--bad); } .chart .bar.warn { fill: var(--warn); }
.chart .line { fill: none; stroke-width: 2; } .chart .s0 { stroke: var(--accent); } .chart .s1 { stroke: var(--guest); }
.chart .s2 { stroke: var(--service); } .chart .s3 { stroke: var(--warn); } .chart .s4 { stroke: var(--bad); }
@media (prefers-reduced-motion: no-preference) { button, .fade { transition: background-color 0.12s, opacity 0.12s; } }
@media (forced-colors: active) { .bubble { border: 1px solid; } }
@media print { :root { color-scheme: light; background: none; } }
`;
