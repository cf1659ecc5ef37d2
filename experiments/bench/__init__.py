"""Speed claims, measured side by side."""
