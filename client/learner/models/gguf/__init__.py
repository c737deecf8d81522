"""A GGUF file of a Llama or Qwen2 as a model folder. Knows nothing of caches, and of where files come from.

Own code instead of transformers' reader, which takes 10 s, drops biases of a Llama and every scaling of rope without a
word, splits text by GPT-2's rule whatever the file names, and writes its own version into the folder, by which the
parties of a federation compare their models.
"""
