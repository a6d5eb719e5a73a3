"""The demonstration: real models on real data, made of public calls only. See ``__main__``."""
