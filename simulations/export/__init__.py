"""A trained adapter made into what others load: a PEFT folder, a merged model, a GGUF file; and its model card."""
