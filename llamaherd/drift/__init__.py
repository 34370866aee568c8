"""Drift: does the fleet still match its file? Changes nothing on any host."""
