"""What the models package does to the world: files, tables, pictures, processes."""
