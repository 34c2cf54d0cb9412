"""ATB: tiny BERTs, found by measurement and shipped as compiled engines."""
