"""Long campaigns against a store and all kinds of input: `make torture`; tests/fault runs a few cases of each."""
