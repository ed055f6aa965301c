"""What Label Studio and its editor send, written for measurements without a Label Studio."""
