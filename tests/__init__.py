"""Tests of Farspan; they mirror the rooms of `src/farspan`."""
