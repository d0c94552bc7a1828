"""Tests of the positions room."""
