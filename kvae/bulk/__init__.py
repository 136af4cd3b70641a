"""Millions of texts on Dask: the work of `kvae bulk`. Needs the extra `bulk`."""
