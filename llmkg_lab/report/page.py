"""A report as one page of HTML that opens anywhere: it asks no other host for anything."""

from typing import Any

from nbconvert import HTMLExporter
from nbformat import NotebookNode

HEADLINE = "llmkg-headline"  # the class of the element that holds a report's verdict

# The exporter's own page loads RequireJS, MathJax, Mermaid and widgets from a content network.
TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block data_widget_view -%}{%- endblock -%}
{%- block data_widget_state -%}{%- endblock -%}
{%- block notebook_css -%}<style>{{ resources.page_style }}</style>{%- endblock -%}
{%- block data_svg -%}
<figure><img alt="{{ output.metadata.get('image/svg+xml', {}).get('alt', '') | e }}"
src="data:image/svg+xml;base64,{{ output.data['image/svg+xml'] | text_base64 }}"></figure>
{%- endblock -%}
"""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --line: #d1d9e0; --soft: #f6f8fa;
  --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #e6edf3; --line: #3d444d; --soft: #161b22; --link: #58a6ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
a { color: var(--link); }
a.anchor-link { display: none; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
p, li, td { overflow-wrap: break-word; }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
code { background: var(--soft); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre code { padding: 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
thead th { border-bottom-width: 2px; }
figure { margin: 1rem 0; overflow-x: auto; }
@media (max-width: 40rem) { figure img { min-width: 34rem; } }
figure img { display: block; max-width: 100%; height: auto; background: #fff; padding: .5rem;
  border-radius: 6px; }
"""


def render(notebook: NotebookNode, title: str) -> str:
    """Return a report's page: its verdict first, its code left out."""
    cells = sorted(notebook.cells, key=lambda cell: not _is_headline(cell))
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_input=True, exclude_output_prompt=True)
    resources = {"metadata": {"name": title}, "page_style": STYLE}
    page: str = exporter.from_notebook_node(NotebookNode(notebook, cells=cells), resources)[0]
    return page


def _is_headline(cell: Any) -> bool:
    outputs = cell.get("outputs", ())
    return any(HEADLINE in output.get("data", {}).get("text/html", "") for output in outputs)
