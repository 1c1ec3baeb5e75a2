"""Token ids on disk, and the padded batches cut out of them."""
