"""Which graph a form of model has. A form that derives from another has that one's graph."""

from functools import singledispatch

from llmkg_lab.graph import bert, llama, openelm
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models import Form, UnsupportedError
from llmkg_lab.models.bert import BertForm
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.models.openelm import OpenELMForm


@singledispatch
def build(form: Form, layers: Layers, task: str, pooling: dict | None) -> None:
    """Build the graph of a model over ``layers``.

    Args:
        form: What the model is.
        layers: The graph, and the weights that it asks for.
        task: What the graph is to compute on top of an encoder.
        pooling: How a sentence embedder pools its hidden states.

    Raises:
        UnsupportedError: Nobody has written the graph of this form.
    """
    raise UnsupportedError(f"there is no graph of a {form.model_type} model")


@build.register
def _(form: LlamaForm, layers: Layers, task: str, pooling: dict | None) -> None:
    llama.build(layers, form)


@build.register
def _(form: OpenELMForm, layers: Layers, task: str, pooling: dict | None) -> None:
    openelm.build(layers, form)


@build.register
def _(form: BertForm, layers: Layers, task: str, pooling: dict | None) -> None:
    bert.build(layers, form, task, pooling)
