"""Tests of lightning attention."""
