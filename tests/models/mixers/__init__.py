"""Tests of token mixers."""
