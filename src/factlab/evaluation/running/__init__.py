"""Many records, methods and layers, in runs that can be killed and go on."""
