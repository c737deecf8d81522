"""Full fine-tuning on one machine (`fedgrpo finetune`), without a federation: nothing is sent."""
