"""Reads the files users bring: images, masks, tables and volumes."""
