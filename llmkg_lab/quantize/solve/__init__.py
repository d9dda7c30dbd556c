"""Solvers that choose codes for the inputs that a matrix really sees."""
