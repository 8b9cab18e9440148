"""Read raw files: images, masks, tables and volumes."""
