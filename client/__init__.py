"""What an organisation runs: the Flower ClientApp (a relay without torch) and the learner that holds the model."""
