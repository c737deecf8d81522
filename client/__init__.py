"""What an organisation runs: the ClientApp (a relay without torch), the learner that holds the model, commands."""
