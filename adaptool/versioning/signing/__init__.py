"""Signatures over a folder, by keys that the user trusts: DSSE, in-toto and OpenSSF model-signing's form."""
