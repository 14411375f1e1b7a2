"""The conformance kit, run by ``pytest --sciinfer-conformance my_plugin`` or through :mod:`sciinfer.testing.kit`."""
