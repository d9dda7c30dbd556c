"""How the explorer looks: one accent, one scale of spacing, no file from elsewhere."""

import html
from collections.abc import Iterable, Mapping

ACCENT = "#bc4c00"
INK, MUTED, FAINT, LINE = "#1f2328", "#59636e", "#8c959f", "#d1d9e0"

# Oranges from light to dark (ColorBrewer's, Harrower and Brewer, 2003): they differ in
# lightness, so that they stay apart in print and for every kind of colour vision.
SHADES = (
    *("#fff5eb", "#fee6ce", "#fdd0a2", "#fdae6b", "#fd8d3c"),
    *("#f16913", "#d94801", "#a63603", "#7f2704"),
)
DARK_FROM = 6  # shades on which the text is white
BLUES = ("#deebf7", "#c6dbef", "#9ecae1", "#6baed6")  # the other side of a diverging scale

# JupyterLab says which theme it shows; a page of Voilà follows the reader's system. Figures, and
# text on a light shade, stay as on paper.
LIGHT = (
    f"color-scheme: light; --lab-page: #fff; --lab-ink: {INK}; --lab-muted: {MUTED}; "
    f"--lab-line: {LINE}; --lab-accent: {ACCENT}; --lab-warn: #fff8c5; --lab-bad: #ffebe9; "
    "--lab-chosen: #fff1e5;"
)
DARK = (
    "color-scheme: dark; --lab-page: #161b22; --lab-ink: #e6edf3; --lab-muted: #9198a1; "
    "--lab-line: #3d444d; --lab-accent: #f0883e; --lab-warn: #3b2f00; --lab-bad: #4c1518; "
    "--lab-chosen: #3d2410;"
)

CSS = f"""
:is(.lab-panel, .lab-static) {{ {LIGHT} }}
body[data-jp-theme-light="false"] :is(.lab-panel, .lab-static) {{ {DARK} }}
@media (prefers-color-scheme: dark) {{
  body[data-voila] :is(.lab-panel, .lab-static) {{ {DARK} }}
}}
.lab-panel {{ font-family: var(--jp-ui-font-family, system-ui, sans-serif); max-width: 1080px;
  container-type: inline-size; color: var(--lab-ink); background: var(--lab-page);
  border: 1px solid var(--lab-line);
  border-radius: 10px; padding: 16px 20px; margin: 4px 0 12px; box-sizing: border-box; }}
.lab-panel {{ --jp-widgets-input-background-color: var(--lab-page);
  --jp-widgets-input-color: var(--lab-ink); --jp-widgets-input-border-color: var(--lab-line); }}
.lab-panel, .lab-panel .jupyter-widgets {{ overflow: visible; }}
.lab-panel .widget-label, .lab-panel .widget-html-content, .lab-panel .widget-readout {{
  color: var(--lab-ink); }}
.lab-panel .widget-html, .lab-panel .widget-html-content {{ height: auto; line-height: 1.5;
  margin: 0; width: 100%; }}
.lab-panel h3 {{ margin: 0 0 2px; font-size: 16px; font-weight: 600; color: var(--lab-ink); }}
.lab-panel .lab-note {{ color: var(--lab-muted); font-size: 13px; line-height: 1.45;
  margin: 0 0 6px; }}
.lab-panel .lab-row {{ flex-flow: row wrap; gap: 8px 12px; align-items: center;
  overflow: visible; margin: 4px 0; }}
.lab-panel .lab-row > * {{ margin: 0; }}
.lab-panel .lab-job {{ gap: 8px 12px; align-items: center; flex-flow: row wrap; }}
.lab-panel .lab-job .widget-html-content {{ font-size: 13px; color: var(--lab-muted); }}
.lab-panel .progress {{ border-radius: 4px; overflow: hidden; height: 8px; }}
.lab-panel .widget-hprogress {{ height: 20px; }}
.lab-panel .progress-bar {{ background: {ACCENT}; }}
.lab-panel .noUi-connect {{ background: {ACCENT}; }}
.lab-panel .noUi-handle:is(:hover, :focus, :active) {{ background: {ACCENT} !important;
  border-color: {ACCENT} !important; }}
.lab-panel .jupyter-button {{ border-radius: 6px; }}
.lab-panel .jupyter-button.mod-primary {{ background: {ACCENT}; color: #fff; font-weight: 600; }}
.lab-panel textarea, .lab-panel input, .lab-panel select {{ border-radius: 6px;
  color: var(--lab-ink);
  background-color: var(--lab-page); }}
.lab-panel textarea {{ font-family: inherit; font-size: 14px; line-height: 1.5; }}
.lab-numbers {{ display: flex; flex-wrap: wrap; gap: 10px 36px; margin: 8px 0; }}
.lab-numbers div {{ min-width: 92px; }}
.lab-numbers b {{ display: block; font-size: 24px; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; color: var(--lab-ink); white-space: nowrap; }}
.lab-numbers b small {{ font-size: 13px; font-weight: 400; color: var(--lab-muted); }}
.lab-numbers .lab-main b {{ color: var(--lab-accent); }}
.lab-numbers span {{ font-size: 12px; color: var(--lab-muted); }}
.lab-chart {{ position: relative; display: block; overflow: visible; margin: 4px 0; }}
.lab-chart > * {{ margin: 0 !important; width: 100%; }}
.lab-chart img, .lab-chart svg {{ display: block; width: 100%; height: auto; }}
.lab-chart img, .lab-static img {{ background: #fff; border-radius: 6px; }}
.lab-chart > .lab-overlay {{ position: absolute !important; inset: 0; pointer-events: none; }}
@container (max-width: 30rem) {{
  .lab-chart {{ overflow: auto hidden; }}
  .lab-chart > * {{ min-width: 34rem; }}
}}
.lab-warning {{ background: var(--lab-warn); border: 1px solid #d4a72c66; border-radius: 6px;
  padding: 6px 10px; font-size: 13px; color: var(--lab-ink); margin: 2px 0 8px; }}
.lab-error {{ background: var(--lab-bad); border: 1px solid #ff818266; border-radius: 6px;
  padding: 6px 10px; font-size: 13px; color: var(--lab-ink); white-space: pre-wrap; }}
.lab-map {{ overflow: visible; }}
.lab-map .jupyter-button {{ border-radius: 3px; font-variant-numeric: tabular-nums;
  box-shadow: none; text-align: center; }}
.lab-map .jupyter-button:hover {{ outline: 2px solid var(--lab-muted); outline-offset: 0; }}
.lab-map .jupyter-button.lab-chosen, .lab-map .jupyter-button:focus-visible {{
  outline: 3px solid var(--lab-ink); outline-offset: -1px; z-index: 1; }}
.lab-map .widget-label {{ font-size: 12px; color: var(--lab-muted); height: 22px;
  line-height: 22px; }}
.lab-panel .jupyter-button.mod-active {{ background: var(--lab-chosen); color: var(--lab-accent);
  font-weight: 600;
  box-shadow: inset 0 0 0 1px var(--lab-accent); }}
.lab-axis {{ display: flex; flex-wrap: wrap; margin: 6px 0; align-items: center; gap: 8px;
  font-size: 12px; color: var(--lab-muted); }}
.lab-axis i {{ display: inline-block; width: 22px; height: 12px; }}
.lab-strip {{ font-size: 15px; line-height: 2; padding: 10px 12px;
  border: 1px solid var(--lab-line);
  border-radius: 8px; background: #fff; color: {INK}; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
.lab-strip span {{ border-radius: 3px; padding: 2px 0; cursor: help; }}
.lab-strip span:hover {{ outline: 2px solid {INK}; }}
.lab-duel {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr));
  gap: 12px; }}
.lab-duel section {{ border: 1px solid var(--lab-line); border-radius: 8px; padding: 8px 12px; }}
.lab-duel h4 {{ margin: 0 0 4px; font-size: 13px; color: var(--lab-muted); font-weight: 600; }}
.lab-duel p {{ margin: 0; font-size: 14px; line-height: 1.55; white-space: pre-wrap;
  color: var(--lab-ink);
  overflow-wrap: anywhere; min-height: 4.6em; }}
.lab-duel mark {{ background: #fee6ce; color: {INK}; }}
.lab-table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
.lab-panel .lab-table td, .lab-panel .lab-table th, .lab-table td, .lab-table th {{
  text-align: right; padding: 3px 12px 3px 0; border: 0; color: var(--lab-ink);
  background: var(--lab-page); }}
.lab-table td:first-child, .lab-table th:first-child {{ text-align: left; }}
.lab-table th {{ color: var(--lab-muted); font-weight: 500;
  border-bottom: 1px solid var(--lab-line) !important; }}
.lab-scroll {{ overflow-x: auto; }}
.lab-static {{ max-width: 1080px; }}
.lab-static img {{ width: 100%; height: auto; }}
:is(.jp-OutputArea, .output):has(.lab-panel) .lab-static {{ display: none; }}
"""

Numbers = Iterable[tuple[str, str, str]]  # value, unit, what it is


def stylesheet() -> str:
    """The style sheet that all panels share, as HTML."""
    return f"<style>{CSS}</style>"


def heading(title: str, note: str) -> str:
    """A panel's title and what it answers; the note may hold HTML."""
    return f'<h3>{html.escape(title)}</h3><p class="lab-note">{note}</p>'


def numbers(items: Numbers) -> str:
    """Large numbers side by side, the first in the accent colour."""
    parts = []
    for i, (value, unit, label) in enumerate(items):
        kind = ' class="lab-main"' if i == 0 else ""
        parts.append(
            f"<div{kind}><b>{html.escape(value)} <small>{html.escape(unit)}</small></b>"
            f"<span>{html.escape(label)}</span></div>"
        )
    return f'<div class="lab-numbers">{"".join(parts)}</div>'


def warning(text: str) -> str:
    """A box that warns, as HTML."""
    return f'<div class="lab-warning" role="status">{html.escape(text)}</div>'


def error(text: str) -> str:
    """A box that tells of an error, as HTML."""
    return f'<div class="lab-error" role="alert">{html.escape(text)}</div>'


def scale(shades: Iterable[str], low: str, high: str, label: str) -> str:
    """A legend: what the shades from ``low`` to ``high`` stand for."""
    boxes = "".join(f'<i style="background:{shade}"></i>' for shade in shades)
    return (
        f'<div class="lab-axis"><span>{html.escape(label)}</span><span>{html.escape(low)}</span>'
        f'<span style="display:inline-flex">{boxes}</span><span>{html.escape(high)}</span></div>'
    )


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of text under their keys."""
    rows = list(rows)
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(key)}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return (
        '<div class="lab-scroll"><table class="lab-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
