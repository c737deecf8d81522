"""Full fine-tuning on one machine (`fedgrpo finetune`): nothing is sent, so nothing here is federated."""
