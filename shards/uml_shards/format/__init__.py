"""The shard format and its decoders: manifest, index, tar members, images, masks and volumes."""
