"""The membership audit: whether an adapter gives away which prompts it was trained on."""
