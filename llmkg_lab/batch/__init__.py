"""Runs the notebooks of many variants, and resumes what was interrupted."""
