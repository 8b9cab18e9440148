"""Storage backends: local files, URLs, the cache and prefetching."""
