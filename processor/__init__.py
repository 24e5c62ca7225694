"""An event leaves `new` exactly once, for `processed` or `failed`: a handler ran, or its reason says why not."""
