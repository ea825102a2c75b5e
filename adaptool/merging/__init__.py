"""Merging: the merged model as a Store, and as a folder that appears whole or not at all."""
