"""The same work done by a peer and by us: `make bench`, or one script, such as `python -m benchmarks.training`."""
