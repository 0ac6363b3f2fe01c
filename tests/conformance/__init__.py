"""One suite, every driver in every lifecycle that it declares. `behaviours.toml` is what it holds them to."""
