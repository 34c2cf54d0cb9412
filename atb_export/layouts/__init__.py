"""Bundles as other servers and the Hugging Face hub want them: `atb layout`."""
