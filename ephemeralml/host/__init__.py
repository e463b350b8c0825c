"""The host beside the enclave: the blind relay and the supervisor of child processes.

Nothing here can see plaintext; the layer table forbids the imports that could.
"""
