"""The trainer: owns the model and the rounds."""
