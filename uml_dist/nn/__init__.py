"""Building blocks of networks, independent of any recipe."""
