"""Long campaigns against a store and against whatever is read: `make torture`; tests/fault runs a few cases each."""
