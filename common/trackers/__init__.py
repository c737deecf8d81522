"""TensorBoard, W&B, trackio and MLflow behind one interface. Server and client decide which metrics they log."""
