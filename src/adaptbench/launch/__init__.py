"""Launching: which cells an experiment has, checking them all, running them, and what came of it.

`grid` says which cells belong to a sweep, `compositions` composes them, `check` reads and checks their data, `cells`
runs one and returns its `Outcome`, `workers` runs several at a time. Hydra's launchers decide only where a cell runs.
"""
