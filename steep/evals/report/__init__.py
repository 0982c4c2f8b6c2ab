"""Runs and evaluations as a page, and as a table for a terminal."""

from steep.evals.report.page import ReportFiles, report, report_markdown, sorted_out
from steep.evals.report.summary import summary

__all__ = ["ReportFiles", "report", "report_markdown", "sorted_out", "summary"]
