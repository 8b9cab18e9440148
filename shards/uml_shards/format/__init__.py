"""What lies in a shard, and how it is read: manifest, index, members, images, masks and volumes."""
