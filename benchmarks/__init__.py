"""Measurements of steep against other programs; `make bench` runs them all."""
