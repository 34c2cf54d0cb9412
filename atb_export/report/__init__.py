"""The report: one self-contained HTML page made from `result.json`."""

from atb_export.report.page import ReportError, write_report

__all__ = ["ReportError", "write_report"]
