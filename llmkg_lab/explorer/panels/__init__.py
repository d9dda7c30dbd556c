"""The explorer's panels, one file each: what a question needs of widgets, and its figure."""
