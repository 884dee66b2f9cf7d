"""Upgrade bundles: what is in one, whether it may be used, and how it is used.

The file is a tar with a TUF repository inside. `manifest` and `seen` are what is known of one, `container` its only
encoding, `verify` decides, `unpack` writes what was decided on, `build` and `keys` make one.
"""
