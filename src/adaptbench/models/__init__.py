"""Base models: loading them, and knowing where their parts are."""
