"""Tables, lines and figures of results."""
