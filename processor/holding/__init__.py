"""A row that was claimed is this process's alone: for as long as its lease is renewed, and no longer."""
