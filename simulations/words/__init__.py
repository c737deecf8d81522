"""A world of word problems in plain English, for a small pretrained model."""
