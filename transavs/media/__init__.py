"""Pictures and sound in files, as any project would read and write them."""
