"""The Label Studio ML backend around `calico_model`."""
