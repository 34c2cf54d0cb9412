"""The report: one self-contained HTML page made from `result.json`, and the pictures of the search as files."""

from atb_export.report.checked import SCHEMA
from atb_export.report.errors import ReportError
from atb_export.report.page import write_report
from atb_export.report.pictures import write_pictures

__all__ = ["SCHEMA", "ReportError", "write_pictures", "write_report"]
