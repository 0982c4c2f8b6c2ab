"""Evaluation under thinking budgets, intervals and fits."""
