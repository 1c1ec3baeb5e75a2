"""Stages and runs on real engines; every test is marked `integration` and run by `make integration`."""
