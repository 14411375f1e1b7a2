"""Side-by-side measurements with peers: ``python -m benchmarks NAME``. A module with ``rows()`` is a benchmark."""
