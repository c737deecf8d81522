"""Export of a trained adapter as a PEFT folder, a merged model or a GGUF file, with a model card."""
