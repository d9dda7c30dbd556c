"""Where the bits matter: sensitivity by layer and matrix, and one matrix under the lens."""

import html

import ipywidgets as widgets

from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.panels.base import ChartView, Panel, row
from llmkg_lab.explorer.questions import grid
from llmkg_lab.explorer.questions.grid import OUTSIDE, Cell
from llmkg_lab.explorer.questions.tensors import Lens, look
from llmkg_lab.explorer.view import charts, style
from llmkg_lab.scheme import Layout

CELL = {"width": "auto", "height": "24px", "min_width": "0", "margin": "0", "padding": "0"}


class SensitivityMap(Panel):
    """Where each matrix hurts, layer by layer."""

    title = "Sensitivity"
    note = (
        "Where do bits matter? Shade: KL divergence of the whole model when only this matrix is "
        "stored so. Number: the bits that the budget above gives it. Choose a cell to look into it."
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.cells: dict[str, Cell] = {}
        self.buttons: dict[str, widgets.Button] = {}
        self.lens: Lens | None = None
        self.layouts = widgets.Dropdown(description="Stored as", layout={"width": "330px"})
        self.map = widgets.VBox()
        self.map.add_class("lab-map")
        self.legend, self.facts = widgets.HTML(), widgets.HTML()
        self.matrix = widgets.Dropdown(description="Matrix", layout={"width": "min(430px, 100%)"})
        self.view = ChartView()
        self._styles = [
            widgets.ButtonStyle(
                button_color=shade,
                text_color="#ffffff" if level >= style.DARK_FROM else style.INK,
                font_size="12px",
            )
            for level, shade in enumerate(style.SHADES)
        ]
        self._unknown = widgets.ButtonStyle(button_color="#eff2f5", font_size="12px")
        self._cell_layout = widgets.Layout(**CELL)
        self.layouts.observe(lambda _: self._shade(), "value")
        self.matrix.observe(self._chosen, "value")
        self.fill(row(self.layouts), self.map, self.legend, row(self.matrix), self.facts, self.view)
        self.state.observe(lambda _: self._renew(), "sensitivities")
        self.state.observe(lambda _: self._bits(), "budget")
        self.state.observe(lambda _: self._look(), "matrix")

    # The map

    def _renew(self) -> None:
        found = self.state.sensitivities
        self.lens, self.buttons, self.map.children = None, {}, ()
        self.legend.value = self.facts.value = ""
        self.view.show("")
        if found is None:
            return
        assert self.state.session is not None
        units = self.state.session.checkpoint.form.units()
        self.cells = {cell.name: cell for cell in grid.cells_of(found, units)}
        self.buttons = {name: self._button(cell) for name, cell in self.cells.items()}
        layouts = grid.layouts_of(found)
        narrow = [layout for layout in layouts if layout.bits == 4] or layouts
        widespread = max(narrow, key=lambda layout: len(grid.losses(found, layout)))
        options = [(grid.layout_name(layout), layout) for layout in layouts]
        self.layouts.options = options
        self.layouts.value = widespread
        self._shade()
        self._bits()
        self.map.children = self._rows()
        names = [n for n, info in self._checkpoint.tensors.items() if len(info.shape) == 2]
        self.matrix.options = names
        self.matrix.value = self.state.matrix = self._most_sensitive()

    def _button(self, cell: Cell) -> widgets.Button:
        button = widgets.Button(layout=self._cell_layout, style=self._unknown)
        button.on_click(lambda _: setattr(self.matrix, "value", cell.name))
        return button

    def _rows(self) -> tuple[widgets.Widget, ...]:
        inside = [cell for cell in self.cells.values() if cell.layer != OUTSIDE]
        kinds = list(dict.fromkeys(cell.kind for cell in inside))
        layers = 1 + max((cell.layer for cell in inside), default=0)
        place = {(cell.kind, cell.layer): self.buttons[cell.name] for cell in inside}
        heads = [widgets.Label("layer"), *(widgets.Label(str(i)) for i in range(layers))]
        children = list(heads)
        for label in heads[1:]:
            label.layout = widgets.Layout(margin="0", min_width="0", justify_content="center")
        for kind in kinds:
            children.append(widgets.Label(kind))
            children += [place.get((kind, i)) or widgets.Label("") for i in range(layers)]
        columns = f"52px repeat({layers}, minmax(18px, 1fr))"
        matrices = widgets.GridBox(
            children, layout={"grid_template_columns": columns, "grid_gap": "2px", "width": "100%"}
        )
        outside = [cell for cell in self.cells.values() if cell.layer == OUTSIDE]
        pairs = [w for c in outside for w in (widgets.Label(c.kind), self.buttons[c.name])]
        rest = widgets.GridBox(
            pairs,
            layout={"grid_template_columns": "52px 120px " * len(outside), "grid_gap": "2px"},
        )
        scroll = widgets.Box([matrices], layout={"overflow": "auto hidden", "width": "100%"})
        return scroll, rest

    def _shade(self) -> None:
        layout = self.layouts.value
        if layout is None or not self.buttons:
            return
        values = grid.losses(self.state.weighed, layout)
        levels = grid.levels(values)
        for name, button in self.buttons.items():
            button.style = self._styles[levels[name]] if name in levels else self._unknown
            loss = f"KL {values[name]:.2g} nats" if name in values else "not measured"
            button.tooltip = f"{name}: {loss} at {grid.layout_name(layout)}"
        if values:
            low, high = (f"{edge(values.values()):.1g}" for edge in (min, max))
            label = "KL divergence, nats per token (logarithmic)"
            self.legend.value = style.scale(style.SHADES, low, high, label)

    def _bits(self) -> None:
        if not self.buttons:
            return
        layouts = self.state.predict().layouts
        for name, button in self.buttons.items():
            text = str(layouts[name].bits) if name in layouts else "·"
            if button.description != text:
                button.description = text
        if self.lens and self._layout(self.state.matrix) != self._lens_layout:
            self._look()

    # The lens

    @property
    def _checkpoint(self) -> Checkpoint:
        return self.state.opened.checkpoint

    def _most_sensitive(self) -> str:
        values = grid.losses(self.state.weighed, self.layouts.value)
        inside = {n: v for n, v in values.items() if self.cells[n].layer != OUTSIDE}
        return max(inside, key=inside.__getitem__) if inside else next(iter(self.cells))

    def _chosen(self, change: dict) -> None:
        if change["new"]:
            self.state.matrix = change["new"]

    def _layout(self, name: str) -> Layout:
        """The layout in which the budget stores the matrix, or else the one that the map shows."""
        return self.state.predict().layouts.get(self._cell_name(name)) or self.layouts.value

    def _cell_name(self, name: str) -> str:
        """The cell that a tensor is part of: itself, or the product that it is fused into."""
        if name in self.cells:
            return name
        for part in ("k_proj", "v_proj"):
            if (first := name.replace(part, "q_proj")) in self.cells:
                return first
        return name

    def _look(self) -> None:
        name = self.state.matrix
        if not name or self.state.sensitivities is None:
            return
        self._lens_layout = self._layout(name)
        self.lens = look(self._checkpoint, name, self._lens_layout)
        self.view.show(charts.histograms(self.lens).html())
        self.facts.value = self._facts(self.lens)
        for other, button in self.buttons.items():
            if other == self._cell_name(name):
                button.add_class("lab-chosen")
            elif "lab-chosen" in button._dom_classes:
                button.remove_class("lab-chosen")

    def _facts(self, lens: Lens) -> str:
        rows, columns = lens.shape
        sample = f", {lens.rows:,} rows looked at" if lens.rows < rows else ""
        items = [
            (f"{lens.relative_error:.2%}", "", "rounding error, relative RMS"),
            (f"{lens.largest_weight:.3g}", "", "largest weight"),
            (f"{lens.largest_weight / max(lens.rms_weight, 1e-12):.1f}", "× RMS", "its outlier"),
            (f"{lens.kurtosis:.1f}", "", "kurtosis (normal: 3)"),
        ]
        note = (
            f"{html.escape(lens.name)}, {rows:,} × {columns:,}{sample}; rounded to nearest in "
            f"{grid.layout_name(self._lens_layout)}"
        )
        return f'{style.numbers(items)}<p class="lab-note">{note}</p>'

    def static(self) -> str:
        if not self.lens:
            return ""
        values = grid.losses(self.state.weighed, self.layouts.value)
        bits = {name: layout.bits for name, layout in self.state.predict().layouts.items()}
        label = f"Only this matrix stored: {grid.layout_name(self.layouts.value)}"
        cells, histograms = list(self.cells.values()), charts.histograms(self.lens).html()
        chart = charts.heat_map(cells, grid.levels(values), bits, label)
        return chart.html() + self.legend.value + self._facts(self.lens) + histograms
