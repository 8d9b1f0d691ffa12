"""Figures on models, each with its interval."""
