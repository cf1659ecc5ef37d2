"""The bill: FLOPs, memory and storage, counted and beside them the paper's own arithmetic."""
