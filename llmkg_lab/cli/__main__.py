"""python -m llmkg_lab.cli"""

from llmkg_lab.cli import main

main()
