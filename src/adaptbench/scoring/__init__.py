"""Scoring answers: choice log-likelihoods, and metrics on them."""
