"""What the library costs, beside what it replaces and what the machine can do: `make bench`."""
