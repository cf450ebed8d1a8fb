"""The network as an scvi-tools module, and how it learns."""
