"""ATB: tiny BERTs, found by measurement and shipped as compiled engines."""

from atb_export.registration import register_when_imported

register_when_imported()
