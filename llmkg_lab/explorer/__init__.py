"""The interactive explorer of trade-offs: what a notebook shows of it is ``Explorer``.

From the ground: questions/ asks models and knows no widgets; view/ draws the answers; bench/ is
the state and the queue that panels share; panels/ holds one question's widgets in each file.
"""

from llmkg_lab.explorer.app import Explorer

__all__ = ["Explorer"]
