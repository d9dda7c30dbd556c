"""The interactive explorer of trade-offs: what a notebook shows of it is ``Explorer``.

session, tokens, tensors, duel, points: the measurements, without widgets; state and jobs: what
the panels share; charts and style: how it looks; panels: the widgets, one file a question.
"""

from llmkg_lab.explorer.app import Explorer

__all__ = ["Explorer"]
