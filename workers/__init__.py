"""The operator half: worker processes and the local stack. Runs from a checkout or an image."""
