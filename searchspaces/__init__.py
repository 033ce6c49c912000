"""Search spaces with their supernets, one family a file; they use `nas` and nothing in `nas` knows them."""
