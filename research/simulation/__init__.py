"""`calico simulate`: an annotator who knows the truth works, and the model learns."""
