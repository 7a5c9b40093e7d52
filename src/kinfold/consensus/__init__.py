"""One labeling out of many: consensus functions for cluster ensembles."""
