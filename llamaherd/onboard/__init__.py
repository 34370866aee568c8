"""``llamaherd onboard``: from a bare box to its validated entry in the fleet."""
