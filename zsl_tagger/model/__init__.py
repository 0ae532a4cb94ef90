"""The networks in torch (needs the [train] extra)."""
