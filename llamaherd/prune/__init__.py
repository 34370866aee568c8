"""``llamaherd prune``: removes what no release, setting or process of a host needs any more."""
