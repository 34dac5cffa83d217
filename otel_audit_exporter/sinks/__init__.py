"""Where rows go: one module or package for each kind of sink."""
