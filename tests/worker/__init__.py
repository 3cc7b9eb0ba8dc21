"""Tests of the worker; `handlers` is the module that its child processes import."""
