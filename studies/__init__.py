"""Resumable studies: long tables of the methods, fitted cell by cell, on whatever day there is time."""
