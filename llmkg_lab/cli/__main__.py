"""``python -m llmkg_lab.cli`` is ``llmkg-lab``."""

from llmkg_lab.cli import main

main()
