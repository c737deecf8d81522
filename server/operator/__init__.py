"""`fedgrpo server` and `fedgrpo keys`: the deployment folder, Flower's processes, the gateway, submitted runs.

Not part of the ServerApp.
"""
