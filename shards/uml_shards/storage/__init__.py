"""Where bytes come from: local files, URLs, the cache and what is fetched ahead."""
