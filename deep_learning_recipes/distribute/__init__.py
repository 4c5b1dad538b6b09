"""Many devices: strategies by name, replicas that train as one, clusters on this
machine."""
