"""The version of the package, which artifacts and reports record."""

__version__ = "0.1.0"
