"""Layers, their parameters, and what runs through them."""
