"""Tests of sequence parallelism."""
