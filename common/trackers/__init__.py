"""TensorBoard, W&B, trackio and MLflow behind one interface. Which metrics they are given is decided by either side."""
