"""Model replicas on Ray that web servers without a model ask; the only importers of ray."""
